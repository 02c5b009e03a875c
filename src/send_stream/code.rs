//! The numbers of commands and attributes, after `fs/btrfs/send.h`.

use std::fmt;

/// Number of a command. Any number is representable; those in [`COMMANDS`] are known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandCode(pub u16);

/// Number of an attribute. Any number is representable; those in [`ATTRIBUTES`] are known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttributeCode(pub u16);

/// What is known of a command.
#[derive(Debug, Clone, Copy)]
pub struct CommandRow {
    /// Its number.
    pub code: CommandCode,
    /// Its name, as `btrfs receive --dump` prints it.
    pub name: &'static str,
    /// The stream version that brought it.
    pub since_version: u32,
    /// The attributes it comes with, in the order in which the kernel writes them. Not every stream has all of them.
    pub attributes: &'static [AttributeCode],
}

/// What is known of an attribute.
#[derive(Debug, Clone, Copy)]
pub struct AttributeRow {
    /// Its number.
    pub code: AttributeCode,
    /// Its name.
    pub name: &'static str,
    /// The stream version that brought it.
    pub since_version: u32,
    /// What its value is.
    pub value: ValueKind,
}

/// What an attribute's value is. Integers are little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    /// One byte.
    U8,
    /// Four bytes.
    U32,
    /// Eight bytes.
    U64,
    /// Sixteen bytes.
    Uuid,
    /// Seconds in eight bytes and nanoseconds in four.
    Time,
    /// A path or a name, without a NUL at its end.
    Text,
    /// Any bytes.
    Bytes,
}

macro_rules! attributes {
    ($($name:ident = $code:literal, $text:literal, version $since:literal, $value:ident, $doc:literal;)+) => {
        impl AttributeCode {
            $(#[doc = $doc] pub const $name: Self = Self($code);)+
        }

        /// Every known attribute, in the order of their numbers, from 1.
        pub const ATTRIBUTES: &[AttributeRow] = &[$(AttributeRow {
            code: AttributeCode::$name, name: $text, since_version: $since, value: ValueKind::$value,
        }),+];
    };
}

macro_rules! commands {
    ($($name:ident = $code:literal, $text:literal, version $since:literal, [$($attribute:ident),*], $doc:literal;)+) => {
        impl CommandCode {
            $(#[doc = $doc] pub const $name: Self = Self($code);)+
        }

        /// Every known command, in the order of their numbers, from 1.
        pub const COMMANDS: &[CommandRow] = &[$(CommandRow {
            code: CommandCode::$name, name: $text, since_version: $since,
            attributes: &[$(AttributeCode::$attribute),*],
        }),+];
    };
}

attributes! {
    UUID = 1, "uuid", version 1, Uuid, "The subvolume's UUID.";
    CTRANSID = 2, "ctransid", version 1, U64, "The transaction of the subvolume's last change.";
    INO = 3, "ino", version 1, U64, "Inode number at the source.";
    SIZE = 4, "size", version 1, U64, "A length in bytes.";
    MODE = 5, "mode", version 1, U64, "Type and permissions.";
    UID = 6, "uid", version 1, U64, "Owning user.";
    GID = 7, "gid", version 1, U64, "Owning group.";
    RDEV = 8, "rdev", version 1, U64, "Number of a device node.";
    CTIME = 9, "ctime", version 1, Time, "Time of the inode's last change.";
    MTIME = 10, "mtime", version 1, Time, "Time of the content's last change.";
    ATIME = 11, "atime", version 1, Time, "Time of the last access.";
    OTIME = 12, "otime", version 1, Time, "Time of creation. Used from version 2 on.";
    XATTR_NAME = 13, "xattr_name", version 1, Text, "Name of an extended attribute.";
    XATTR_DATA = 14, "xattr_data", version 1, Bytes, "Value of an extended attribute.";
    PATH = 15, "path", version 1, Text, "The path that the command is about, relative to the subvolume.";
    PATH_TO = 16, "path_to", version 1, Text, "Where a rename leads.";
    PATH_LINK = 17, "path_link", version 1, Text, "What a link points at.";
    FILE_OFFSET = 18, "file_offset", version 1, U64, "Offset in the file.";
    DATA = 19, "data", version 1, Bytes, "File data. From version 2 on it has no length and reaches to the command's end.";
    CLONE_UUID = 20, "clone_uuid", version 1, Uuid, "UUID of the subvolume cloned from, or of the parent.";
    CLONE_CTRANSID = 21, "clone_ctransid", version 1, U64, "CTRANSID of the subvolume cloned from, or of the parent.";
    CLONE_PATH = 22, "clone_path", version 1, Text, "The file cloned from.";
    CLONE_OFFSET = 23, "clone_offset", version 1, U64, "Offset in the file cloned from.";
    CLONE_LEN = 24, "clone_len", version 1, U64, "Length of what is cloned.";
    FALLOCATE_MODE = 25, "fallocate_mode", version 2, U32, "Flags of `fallocate`.";
    FILEATTR = 26, "fileattr", version 2, U64, "Inode flags.";
    UNENCODED_FILE_LEN = 27, "unencoded_file_len", version 2, U64, "How much of the decoded extent is in the file.";
    UNENCODED_LEN = 28, "unencoded_len", version 2, U64, "Length of the decoded extent.";
    UNENCODED_OFFSET = 29, "unencoded_offset", version 2, U64, "Where in the decoded extent the file's part begins.";
    COMPRESSION = 30, "compression", version 2, U32, "How the extent is compressed; none if absent.";
    ENCRYPTION = 31, "encryption", version 2, U32, "How the extent is encrypted; not if absent.";
    VERITY_ALGORITHM = 32, "verity_algorithm", version 3, U8, "Hash algorithm of fs-verity.";
    VERITY_BLOCK_SIZE = 33, "verity_block_size", version 3, U32, "Block size of fs-verity.";
    VERITY_SALT_DATA = 34, "verity_salt_data", version 3, Bytes, "Salt of fs-verity.";
    VERITY_SIG_DATA = 35, "verity_sig_data", version 3, Bytes, "Signature of fs-verity.";
}

commands! {
    SUBVOL = 1, "subvol", version 1, [PATH, UUID, CTRANSID],
        "Begins a whole subvolume.";
    SNAPSHOT = 2, "snapshot", version 1, [PATH, UUID, CTRANSID, CLONE_UUID, CLONE_CTRANSID],
        "Begins a subvolume as changes to a parent.";
    MKFILE = 3, "mkfile", version 1, [PATH, INO], "Makes a regular file.";
    MKDIR = 4, "mkdir", version 1, [PATH, INO], "Makes a directory.";
    MKNOD = 5, "mknod", version 1, [PATH, INO, RDEV, MODE], "Makes a device node.";
    MKFIFO = 6, "mkfifo", version 1, [PATH, INO, RDEV, MODE], "Makes a named pipe.";
    MKSOCK = 7, "mksock", version 1, [PATH, INO, RDEV, MODE], "Makes a socket.";
    SYMLINK = 8, "symlink", version 1, [PATH, INO, PATH_LINK], "Makes a symbolic link.";
    RENAME = 9, "rename", version 1, [PATH, PATH_TO], "Renames or moves.";
    LINK = 10, "link", version 1, [PATH, PATH_LINK], "Makes a hard link.";
    UNLINK = 11, "unlink", version 1, [PATH], "Removes a name that is not a directory's.";
    RMDIR = 12, "rmdir", version 1, [PATH], "Removes a directory.";
    SET_XATTR = 13, "set_xattr", version 1, [PATH, XATTR_NAME, XATTR_DATA], "Sets an extended attribute.";
    REMOVE_XATTR = 14, "remove_xattr", version 1, [PATH, XATTR_NAME], "Removes an extended attribute.";
    WRITE = 15, "write", version 1, [PATH, FILE_OFFSET, DATA], "Writes file data.";
    CLONE = 16, "clone", version 1,
        [FILE_OFFSET, CLONE_LEN, PATH, CLONE_UUID, CLONE_CTRANSID, CLONE_PATH, CLONE_OFFSET],
        "Shares an extent with a file of this subvolume or of another.";
    TRUNCATE = 17, "truncate", version 1, [PATH, SIZE], "Sets a file's length.";
    CHMOD = 18, "chmod", version 1, [PATH, MODE], "Sets permissions.";
    CHOWN = 19, "chown", version 1, [PATH, UID, GID], "Sets the owners.";
    UTIMES = 20, "utimes", version 1, [PATH, ATIME, MTIME, CTIME, OTIME],
        "Sets time stamps; that of creation from version 2 on.";
    END = 21, "end", version 1, [], "Ends the stream.";
    UPDATE_EXTENT = 22, "update_extent", version 1, [PATH, FILE_OFFSET, SIZE],
        "Stands for a write in a stream made without file data.";
    FALLOCATE = 23, "fallocate", version 2, [PATH, FALLOCATE_MODE, FILE_OFFSET, SIZE],
        "Punches a hole, or reserves a range.";
    FILEATTR = 24, "fileattr", version 2, [PATH, FILEATTR], "Sets inode flags.";
    ENCODED_WRITE = 25, "encoded_write", version 2,
        [PATH, FILE_OFFSET, UNENCODED_FILE_LEN, UNENCODED_LEN, UNENCODED_OFFSET, COMPRESSION, ENCRYPTION, DATA],
        "Writes an extent as it is on disk, compressed.";
    ENABLE_VERITY = 26, "enable_verity", version 3,
        [PATH, VERITY_ALGORITHM, VERITY_BLOCK_SIZE, VERITY_SALT_DATA, VERITY_SIG_DATA],
        "Turns fs-verity on for a file.";
}

// A known number is found by its place in the table.
const _: () = {
    let mut place = 0;
    while place < COMMANDS.len() {
        assert!(COMMANDS[place].code.0 as usize == place + 1, "commands are in order and without gaps");
        let attributes = COMMANDS[place].attributes;
        let mut number = 0;
        while number < attributes.len() {
            let row = &ATTRIBUTES[attributes[number].0 as usize - 1];
            assert!(row.since_version <= COMMANDS[place].since_version, "a command's attributes are not newer than it");
            let last = number + 1 == attributes.len();
            assert!(attributes[number].0 != AttributeCode::DATA.0 || last, "DATA is the last attribute of a command");
            number += 1;
        }
        place += 1;
    }
    place = 0;
    while place < ATTRIBUTES.len() {
        assert!(ATTRIBUTES[place].code.0 as usize == place + 1, "attributes are in order and without gaps");
        place += 1;
    }
    assert!(COMMANDS[COMMANDS.len() - 1].since_version == super::NEWEST_VERSION);
    assert!(ATTRIBUTES[ATTRIBUTES.len() - 1].since_version == super::NEWEST_VERSION);
};

impl CommandCode {
    /// What is known of the command, if anything.
    #[must_use]
    pub fn row(self) -> Option<&'static CommandRow> {
        COMMANDS.get(usize::from(self.0).checked_sub(1)?)
    }

    /// Whether the command is in the table.
    #[must_use]
    pub fn is_known(self) -> bool {
        self.row().is_some()
    }

    /// Whether the command brings file data.
    #[must_use]
    pub fn is_write(self) -> bool {
        matches!(self, Self::WRITE | Self::ENCODED_WRITE)
    }
}

impl AttributeCode {
    /// What is known of the attribute, if anything.
    #[must_use]
    pub fn row(self) -> Option<&'static AttributeRow> {
        ATTRIBUTES.get(usize::from(self.0).checked_sub(1)?)
    }
}

impl fmt::Display for CommandCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.row() {
            Some(row) => f.write_str(row.name),
            None => write!(f, "command {}", self.0),
        }
    }
}

impl fmt::Debug for CommandCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for AttributeCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.row() {
            Some(row) => f.write_str(row.name),
            None => write!(f, "attribute {}", self.0),
        }
    }
}

impl fmt::Debug for AttributeCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
