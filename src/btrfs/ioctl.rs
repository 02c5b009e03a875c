//! The calls into the kernel that have no safe wrapper elsewhere, as `linux/btrfs.h` lays them out.
//!
//! The only unsafe code of the library. All of it rests on [`Argument`]; everything above it is safe.
#![expect(unsafe_code, reason = "ioctls of Btrfs; no crate wraps them without needing a C compiler front end")]

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use rustix::ioctl::opcode::{from_components, read, read_write, write};
use rustix::ioctl::{Direction, Ioctl, IoctlOutput, Opcode};

const MAGIC: u8 = 0x94;
/// How many bytes of results one tree search may give.
const SEARCH_BUFFER_BYTES: usize = 16 * 1024;

/// The argument of an ioctl.
///
/// # Safety
///
/// `OPCODE` must belong to an ioctl that reads and writes nothing beyond a `Self`, leaves any bits in it a valid
/// `Self`, and keeps no pointer to it.
unsafe trait Argument {
    const OPCODE: Opcode;
}

struct Call<'a, T>(&'a mut T);

// SAFETY: `Argument` promises that the kernel takes a `T` for this opcode, and the pointer is to a whole one that is
// borrowed for as long as the call lasts. It may be changed, as `IS_MUTATING` says.
unsafe impl<T: Argument> Ioctl for Call<'_, T> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        T::OPCODE
    }

    fn as_ptr(&mut self) -> *mut core::ffi::c_void {
        ptr::from_mut(self.0).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut core::ffi::c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

fn call<T: Argument>(fd: impl AsFd, argument: &mut T) -> io::Result<()> {
    // SAFETY: `Argument` promises that this opcode goes with a `T`.
    unsafe { rustix::ioctl::ioctl(fd, Call(argument)) }.map_err(io::Error::from)
}

/// A moment, as Btrfs' calls give it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Time {
    pub(super) seconds: u64,
    pub(super) nanoseconds: u32,
    padding: u32,
}

/// `btrfs_ioctl_get_subvol_info_args`.
#[repr(C)]
#[derive(Debug, Clone)]
pub(super) struct RawSubvolumeInfo {
    pub(super) id: u64,
    name: [u8; 256],
    pub(super) parent_id: u64,
    directory_id: u64,
    pub(super) generation: u64,
    pub(super) flags: u64,
    pub(super) uuid: [u8; 16],
    pub(super) parent_uuid: [u8; 16],
    pub(super) received_uuid: [u8; 16],
    pub(super) ctransid: u64,
    pub(super) otransid: u64,
    pub(super) stransid: u64,
    pub(super) rtransid: u64,
    ctime: Time,
    pub(super) otime: Time,
    stime: Time,
    rtime: Time,
    reserved: [u64; 8],
}

// SAFETY: BTRFS_IOC_GET_SUBVOL_INFO writes one `btrfs_ioctl_get_subvol_info_args` of plain integers.
unsafe impl Argument for RawSubvolumeInfo {
    const OPCODE: Opcode = read::<Self>(MAGIC, 60);
}

/// Describes the subvolume in which the open file or folder lies. Needs no privilege.
pub(super) fn subvolume_info(fd: impl AsFd) -> io::Result<RawSubvolumeInfo> {
    let mut info = RawSubvolumeInfo {
        id: 0,
        name: [0; 256],
        parent_id: 0,
        directory_id: 0,
        generation: 0,
        flags: 0,
        uuid: [0; 16],
        parent_uuid: [0; 16],
        received_uuid: [0; 16],
        ctransid: 0,
        otransid: 0,
        stransid: 0,
        rtransid: 0,
        ctime: Time::default(),
        otime: Time::default(),
        stime: Time::default(),
        rtime: Time::default(),
        reserved: [0; 8],
    };
    call(fd, &mut info)?;
    Ok(info)
}

/// `btrfs_ioctl_fs_info_args`, of which only the UUID matters here.
#[repr(C)]
struct FileSystemInfo {
    largest_device_id: u64,
    devices: u64,
    uuid: [u8; 16],
    rest: [u64; 124],
}

// SAFETY: BTRFS_IOC_FS_INFO reads and writes one `btrfs_ioctl_fs_info_args`, 1024 bytes of plain integers.
unsafe impl Argument for FileSystemInfo {
    const OPCODE: Opcode = read::<Self>(MAGIC, 31);
}

/// The UUID of the file system on which the open file or folder lies.
pub(super) fn file_system_uuid(fd: impl AsFd) -> io::Result<[u8; 16]> {
    let mut info = FileSystemInfo { largest_device_id: 0, devices: 0, uuid: [0; 16], rest: [0; 124] };
    call(fd, &mut info)?;
    Ok(info.uuid)
}

/// `btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct SnapshotArguments {
    source: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

// SAFETY: BTRFS_IOC_SNAP_CREATE_V2 reads one `btrfs_ioctl_vol_args_v2`. The descriptor in it is only used in the call.
unsafe impl Argument for SnapshotArguments {
    const OPCODE: Opcode = write::<Self>(MAGIC, 23);
}

const SNAPSHOT_READ_ONLY: u64 = 1 << 1;

fn name_buffer<const N: usize>(name: &OsStr) -> io::Result<[u8; N]> {
    let name = name.as_bytes();
    let mut buffer = [0; N];
    let fits = !name.is_empty() && name.len() <= 255 && !name.iter().any(|byte| matches!(byte, b'/' | 0));
    let room = buffer.get_mut(..name.len()).filter(|_| fits).ok_or(rustix::io::Errno::INVAL)?;
    room.copy_from_slice(name);
    Ok(buffer)
}

/// Makes a snapshot of a subvolume as `name` in the open folder. When it returns, the snapshot is on the disk.
pub(super) fn create_snapshot(source: impl AsFd, folder: impl AsFd, name: &OsStr, read_only: bool) -> io::Result<()> {
    let mut arguments = SnapshotArguments {
        source: source.as_fd().as_raw_fd().into(),
        transid: 0,
        flags: if read_only { SNAPSHOT_READ_ONLY } else { 0 },
        unused: [0; 4],
        name: name_buffer(name)?,
    };
    call(folder, &mut arguments)
}

/// `btrfs_ioctl_vol_args`.
#[repr(C)]
struct DestroyArguments {
    unused: i64,
    name: [u8; 4088],
}

// SAFETY: BTRFS_IOC_SNAP_DESTROY reads one `btrfs_ioctl_vol_args`.
unsafe impl Argument for DestroyArguments {
    const OPCODE: Opcode = write::<Self>(MAGIC, 15);
}

/// Deletes the subvolume `name` in the open folder.
pub(super) fn delete_subvolume(folder: impl AsFd, name: &OsStr) -> io::Result<()> {
    call(folder, &mut DestroyArguments { unused: 0, name: name_buffer(name)? })
}

#[repr(transparent)]
struct SetFlags(u64);

// SAFETY: BTRFS_IOC_SUBVOL_SETFLAGS reads one 64-bit integer.
unsafe impl Argument for SetFlags {
    const OPCODE: Opcode = write::<Self>(MAGIC, 26);
}

/// Makes the open subvolume read-only or writable.
pub(super) fn set_read_only(subvolume: impl AsFd, read_only: bool) -> io::Result<()> {
    call(subvolume, &mut SetFlags(if read_only { SNAPSHOT_READ_ONLY } else { 0 }))
}

/// `btrfs_ioctl_received_subvol_args`.
#[repr(C)]
struct ReceivedArguments {
    uuid: [u8; 16],
    stransid: u64,
    rtransid: u64,
    stime: Time,
    rtime: Time,
    flags: u64,
    reserved: [u64; 16],
}

// SAFETY: BTRFS_IOC_SET_RECEIVED_SUBVOL reads and writes one `btrfs_ioctl_received_subvol_args` of plain integers.
unsafe impl Argument for ReceivedArguments {
    const OPCODE: Opcode = read_write::<Self>(MAGIC, 37);
}

/// Records on the open, writable subvolume what it was received from; its rtransid becomes the current transaction.
pub(super) fn set_received(subvolume: impl AsFd, uuid: [u8; 16], stransid: u64) -> io::Result<()> {
    let (stime, rtime) = (Time::default(), Time::default());
    call(subvolume, &mut ReceivedArguments { uuid, stransid, rtransid: 0, stime, rtime, flags: 0, reserved: [0; 16] })
}

/// `btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct LookupArguments {
    tree: u64,
    inode: u64,
    name: [u8; 4080],
}

// SAFETY: BTRFS_IOC_INO_LOOKUP reads and writes one `btrfs_ioctl_ino_lookup_args` of plain integers.
unsafe impl Argument for LookupArguments {
    const OPCODE: Opcode = read_write::<Self>(MAGIC, 18);
}

/// The path of a folder within its subvolume, with a slash at its end; empty for the subvolume's own root.
pub(super) fn path_of_inode(fd: impl AsFd, subvolume_id: u64, inode: u64) -> io::Result<Vec<u8>> {
    let mut arguments = LookupArguments { tree: subvolume_id, inode, name: [0; 4080] };
    call(fd, &mut arguments)?;
    Ok(arguments.name.split(|byte| *byte == 0).next().unwrap_or_default().to_vec())
}

/// The place of an item in a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ItemKey {
    pub(super) object: u64,
    pub(super) kind: u32,
    pub(super) offset: u64,
}

/// `btrfs_ioctl_search_args_v2` with the room for results that follows it.
#[repr(C)]
struct SearchArguments {
    tree: u64,
    first_object: u64,
    last_object: u64,
    first_offset: u64,
    last_offset: u64,
    first_transid: u64,
    last_transid: u64,
    first_kind: u32,
    last_kind: u32,
    items: u32,
    unused: u32,
    more_unused: [u64; 4],
    buffer_bytes: u64,
    buffer: [u8; SEARCH_BUFFER_BYTES],
}

/// Size of `btrfs_ioctl_search_args_v2` itself, which is what the opcode holds.
const SEARCH_HEAD_BYTES: usize = 112;

// SAFETY: BTRFS_IOC_TREE_SEARCH_V2 reads and writes the head of 112 bytes, and writes at most as many bytes after it
// as the head says; `search` says `SEARCH_BUFFER_BYTES`.
unsafe impl Argument for SearchArguments {
    const OPCODE: Opcode = from_components(Direction::ReadWrite, MAGIC, 17, SEARCH_HEAD_BYTES);
}

/// One call's worth of a tree's items from `first` to `last`: how many there are, and their bytes, each item headed by
/// a `btrfs_ioctl_search_header`. None means that there are no more. Needs root.
pub(super) fn search(fd: impl AsFd, tree: u64, first: ItemKey, last: ItemKey) -> io::Result<(u32, Vec<u8>)> {
    let mut arguments = Box::new(SearchArguments {
        tree,
        first_object: first.object,
        last_object: last.object,
        first_offset: first.offset,
        last_offset: last.offset,
        first_transid: 0,
        last_transid: u64::MAX,
        first_kind: first.kind,
        last_kind: last.kind,
        items: u32::MAX,
        unused: 0,
        more_unused: [0; 4],
        buffer_bytes: SEARCH_BUFFER_BYTES as u64,
        buffer: [0; SEARCH_BUFFER_BYTES],
    });
    call(fd, &mut *arguments)?;
    Ok((arguments.items, arguments.buffer.to_vec()))
}

// The layouts above are the kernel's: a field too many or too few would show in these.
const _: () = {
    assert!(size_of::<RawSubvolumeInfo>() == 504);
    assert!(size_of::<FileSystemInfo>() == 1024);
    assert!(size_of::<SnapshotArguments>() == 4096);
    assert!(size_of::<DestroyArguments>() == 4096);
    assert!(size_of::<ReceivedArguments>() == 200);
    assert!(size_of::<LookupArguments>() == 4096);
    assert!(size_of::<SearchArguments>() == SEARCH_HEAD_BYTES + SEARCH_BUFFER_BYTES);
};
