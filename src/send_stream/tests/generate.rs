//! Streams of any commands, for the property tests.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::*;

/// A command before it is written: its number, and its body's bytes as they follow from the version.
#[derive(Debug, Clone)]
pub(super) struct AnyCommand {
    code: CommandCode,
    body: AnyBody,
}

#[derive(Debug, Clone)]
enum AnyBody {
    /// Attributes, each with its value.
    Attributes(Vec<(AttributeCode, Vec<u8>)>),
    /// Anything; only for commands that are not known.
    Raw(Vec<u8>),
}

fn any_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        2 => Just(Vec::new()),
        4 => vec(any::<u8>(), 8),
        2 => vec(any::<u8>(), 16),
        4 => vec(any::<u8>(), 0..40),
        1 => (0..u16::MAX).prop_map(|length| vec![7; usize::from(length)]),
    ]
}

fn any_attribute() -> impl Strategy<Value = (AttributeCode, Vec<u8>)> {
    let code = prop_oneof![
        3 => Just(AttributeCode::DATA),
        3 => Just(AttributeCode::PATH),
        6 => (0..40u16).prop_map(AttributeCode),
        1 => any::<u16>().prop_map(AttributeCode),
    ];
    (code, any_value())
}

/// A write as the kernel makes it: of one of a few files.
fn plain_write() -> impl Strategy<Value = AnyCommand> {
    let code = prop_oneof![Just(CommandCode::WRITE), Just(CommandCode::ENCODED_WRITE)];
    (code, 0..4u8, any_value()).prop_map(|(code, file, data)| {
        let attributes = vec![(AttributeCode::PATH, vec![b'a' + file]), (AttributeCode::DATA, data)];
        AnyCommand { code, body: AnyBody::Attributes(attributes) }
    })
}

fn known_command() -> impl Strategy<Value = AnyCommand> {
    let rows = COMMANDS.iter().map(|row| row.code).filter(|code| *code != CommandCode::END);
    let codes: Vec<_> = rows.collect();
    (prop::sample::select(codes), vec(any_attribute(), 0..6))
        .prop_map(|(code, attributes)| AnyCommand { code, body: AnyBody::Attributes(attributes) })
}

fn unknown_command() -> impl Strategy<Value = AnyCommand> {
    let first = u16::try_from(COMMANDS.len()).unwrap() + 1;
    let code = prop_oneof![Just(0), first..first + 9, first..=u16::MAX];
    (code, vec(any::<u8>(), 0..60))
        .prop_map(|(code, raw)| AnyCommand { code: CommandCode(code), body: AnyBody::Raw(raw) })
}

/// A version that is known, and any commands.
pub(super) fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let command = prop_oneof![4 => plain_write(), 4 => known_command(), 1 => unknown_command()];
    (1..=NEWEST_VERSION, vec(command, 0..12)).prop_map(|(version, commands)| {
        super::stream(version, |writer| {
            commands.iter().try_for_each(|command| writer.raw_command(command.code, &body(version, command)))
        })
    })
}

fn body(version: u32, command: &AnyCommand) -> Vec<u8> {
    let attributes = match &command.body {
        AnyBody::Raw(raw) => return raw.clone(),
        AnyBody::Attributes(attributes) => attributes,
    };
    let mut body = Vec::new();
    for (code, value) in attributes {
        body.extend_from_slice(&code.0.to_le_bytes());
        if version == 1 || *code != AttributeCode::DATA {
            body.extend_from_slice(&u16::try_from(value.len()).unwrap().to_le_bytes());
        }
        body.extend_from_slice(value);
    }
    body
}
