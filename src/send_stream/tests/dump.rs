//! Prints a stream as `btrfs receive --dump` of btrfs-progs 6.2 does, in UTC.

use jiff::Timestamp;

use super::*;
use crate::id::Uuid;

pub(super) fn dump(stream: &[u8]) -> Vec<u8> {
    let mut reader = CommandReader::new(stream).unwrap();
    let (mut subject, mut output) = (Vec::new(), Vec::new());
    while let Some(command) = reader.next_command().unwrap() {
        if command.code != CommandCode::END {
            output.extend_from_slice(&line(&command, &mut subject));
        }
    }
    output
}

fn line(command: &Command<'_>, subject: &mut Vec<u8>) -> Vec<u8> {
    let path = text(command, AttributeCode::PATH);
    let full_path = if matches!(command.code, CommandCode::SUBVOL | CommandCode::SNAPSHOT) {
        *subject = [b"./", path].concat();
        subject.clone()
    } else {
        [subject, &b"/"[..], path].concat()
    };
    let mut line = format!("{:<16}", command.code.row().unwrap().name).into_bytes();
    line.extend_from_slice(&escape(&full_path));
    let details = details(command, subject);
    if !details.is_empty() {
        line.push(b' ');
        line.resize(line.len().max(16 + 32), b' ');
        line.extend_from_slice(&details);
    }
    line.push(b'\n');
    line
}

fn details(command: &Command<'_>, subject: &[u8]) -> Vec<u8> {
    use AttributeCode as A;
    let number = |code| number(command, code);
    let text = |code| text(command, code);
    let printed = match command.code {
        CommandCode::SUBVOL => format!("uuid={} transid={}", uuid(command, A::UUID), number(A::CTRANSID)),
        CommandCode::SNAPSHOT => format!(
            "uuid={} transid={} parent_uuid={} parent_transid={}",
            uuid(command, A::UUID),
            number(A::CTRANSID),
            uuid(command, A::CLONE_UUID),
            number(A::CLONE_CTRANSID)
        ),
        CommandCode::MKNOD => format!("mode={:o} dev={:#x}", number(A::MODE), number(A::RDEV)),
        CommandCode::SYMLINK | CommandCode::LINK => return [b"dest=", &escape(text(A::PATH_LINK))[..]].concat(),
        CommandCode::RENAME => return [b"dest=", subject, b"/", &escape(text(A::PATH_TO))].concat(),
        CommandCode::WRITE => format!("offset={} len={}", number(A::FILE_OFFSET), text(A::DATA).len()),
        CommandCode::ENCODED_WRITE => encoded_write(command),
        CommandCode::UPDATE_EXTENT => format!("offset={} len={}", number(A::FILE_OFFSET), number(A::SIZE)),
        CommandCode::FALLOCATE => {
            format!("mode={} offset={} len={}", number(A::FALLOCATE_MODE), number(A::FILE_OFFSET), number(A::SIZE))
        }
        CommandCode::CLONE => {
            let place = format!("offset={} len={} from=", number(A::FILE_OFFSET), number(A::CLONE_LEN));
            let clone_offset = format!(" clone_offset={}", number(A::CLONE_OFFSET));
            return [place.as_bytes(), subject, b"/", text(A::CLONE_PATH), clone_offset.as_bytes()].concat();
        }
        CommandCode::SET_XATTR => {
            let data = text(A::XATTR_DATA);
            let shown = data.split(|byte| *byte == 0).next().unwrap_or_default();
            let length = format!(" len={}", data.len());
            return [b"name=", text(A::XATTR_NAME), b" data=", shown, length.as_bytes()].concat();
        }
        CommandCode::REMOVE_XATTR => return [b"name=", text(A::XATTR_NAME)].concat(),
        CommandCode::TRUNCATE => format!("size={}", number(A::SIZE)),
        CommandCode::CHMOD => format!("mode={:o}", number(A::MODE)),
        CommandCode::CHOWN => format!("gid={} uid={}", number(A::GID), number(A::UID)),
        CommandCode::UTIMES => {
            format!(
                "atime={} mtime={} ctime={}",
                time(command, A::ATIME),
                time(command, A::MTIME),
                time(command, A::CTIME)
            )
        }
        _ => String::new(),
    };
    printed.into_bytes()
}

fn encoded_write(command: &Command<'_>) -> String {
    use AttributeCode as A;
    format!(
        "offset={} len={}, unencoded_file_len={}, unencoded_len={}, unencoded_offset={}, compression={}, encryption={}",
        number(command, A::FILE_OFFSET),
        text(command, A::DATA).len(),
        number(command, A::UNENCODED_FILE_LEN),
        number(command, A::UNENCODED_LEN),
        number(command, A::UNENCODED_OFFSET),
        number_or_zero(command, A::COMPRESSION),
        number_or_zero(command, A::ENCRYPTION)
    )
}

fn text<'a>(command: &Command<'a>, code: AttributeCode) -> &'a [u8] {
    command.attribute(code).unwrap().value
}

fn number(command: &Command<'_>, code: AttributeCode) -> u64 {
    command.attribute(code).unwrap().as_u64().unwrap()
}

fn number_or_zero(command: &Command<'_>, code: AttributeCode) -> u64 {
    command.attribute(code).map_or(0, |attribute| attribute.as_u64().unwrap())
}

fn uuid(command: &Command<'_>, code: AttributeCode) -> Uuid {
    command.attribute(code).unwrap().as_uuid().unwrap()
}

fn time(command: &Command<'_>, code: AttributeCode) -> String {
    let (seconds, _) = command.attribute(code).unwrap().as_time().unwrap();
    Timestamp::from_second(seconds).unwrap().strftime("%Y-%m-%dT%H:%M:%S+0000").to_string()
}

fn escape(path: &[u8]) -> Vec<u8> {
    path.iter().flat_map(|byte| escape_byte(*byte)).collect()
}

fn escape_byte(byte: u8) -> Vec<u8> {
    let letter = match byte {
        0x07 => b'a',
        0x08 => b'b',
        0x1b => b'e',
        0x0c => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x0b => b'v',
        b' ' | b'\\' => byte,
        b'!'..=b'~' => return vec![byte],
        _ => return format!("\\{byte:03o}").into_bytes(),
    };
    vec![b'\\', letter]
}
