//! Decoders: no bytes make them panic, and what they accept is encoded to what they accept again.

use bytes::{Bytes, BytesMut};
use wire_protocol::command::Command;
use wire_protocol::rpc::{Message, RpcDecoder, RpcLimits};
use wire_protocol::{
    ClientDecoder, Configuration, EntryKind, FrameDecoder, Incoming, Params, Protocol, Request, Response,
    ResponseContext, ServersFormat,
};

/// Longest body that the decoders take here. Small, so that refusing longer ones is tried as well.
const MAX_LEN: usize = 1 << 16;

/// The first byte says how long the parts are in which the others arrive.
fn parts(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (len, rest) = data.split_first().map_or((1, data), |(len, rest)| (usize::from(*len) + 1, rest));
    rest.chunks(len)
}

/// See [`super::ALL`].
pub(super) fn requests(data: &[u8]) {
    let mut decoder = ClientDecoder::new(MAX_LEN);
    let mut buffer = BytesMut::new();
    for part in parts(data) {
        buffer.extend_from_slice(part);
        loop {
            let missing = decoder.missing_len(&buffer);
            match decoder.decode(&mut buffer) {
                Ok(Some(Incoming::Frame(frame))) => {
                    let Ok(request) = Request::decode(&frame) else { continue };
                    let mut encoded = BytesMut::new();
                    request.encode(&mut encoded);
                    let frame = FrameDecoder::new(2 * MAX_LEN).decode(&mut encoded);
                    let frame = frame.expect("what was encoded is well-formed").expect("and whole");
                    let again = Request::decode(&frame).expect("what was encoded decodes");
                    assert_eq!(params(&again), params(&request), "parameters change on their way");
                    assert_eq!(
                        without_params(again),
                        without_params(request),
                        "a request changes on its way"
                    );
                }
                Ok(Some(_)) => {}
                Ok(None) => {
                    assert!(missing > 0, "the decoder waits for nothing");
                    break;
                }
                Err(_) => return,
            }
        }
    }
}

/// The values of the parameters, as text, so that a NaN equals itself. What stands behind the last of them does not count.
fn params(request: &Request) -> Option<String> {
    match request {
        Request::Exec { params, .. }
        | Request::Query { params, .. }
        | Request::ExecSql { params, .. }
        | Request::QuerySql { params, .. } => Some(format!("{:?}", params.iter().collect::<Vec<_>>())),
        _ => None,
    }
}

/// All but the parameters.
fn without_params(mut request: Request) -> Request {
    if let Request::Exec { params, .. }
    | Request::Query { params, .. }
    | Request::ExecSql { params, .. }
    | Request::QuerySql { params, .. } = &mut request
    {
        *params = Params::none();
    }
    request
}

/// See [`super::ALL`].
pub(super) fn responses(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else { return };
    let context = ResponseContext {
        protocol: if choice & 1 == 0 { Protocol::Current } else { Protocol::Legacy },
        format: if choice & 2 == 0 { ServersFormat::WithRoles } else { ServersFormat::WithoutRoles },
    };
    let decoder = FrameDecoder::new(MAX_LEN);
    let mut buffer = BytesMut::from(rest);
    while let Ok(Some(frame)) = decoder.decode(&mut buffer) {
        let Ok(response) = Response::decode_with(&frame, context) else { continue };
        let mut encoded = BytesMut::new();
        response.encode(&mut encoded);
        let vectored: Vec<u8> = response.encode_vectored().concat();
        assert_eq!(&vectored[..], &encoded[..], "two ways to encode a response differ");
    }
}

/// See [`super::ALL`].
pub(super) fn rpcs(data: &[u8]) {
    let mut decoder = RpcDecoder::new(RpcLimits { header_len: MAX_LEN, payload_len: MAX_LEN });
    let mut buffer = BytesMut::new();
    for part in parts(data) {
        buffer.extend_from_slice(part);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(message)) => check_rpc(&message),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(command) = Command::decode(&bytes) {
        let again = Command::decode(&command.encode()).expect("an encoded command decodes");
        assert_eq!(again, command, "a command changes on its way");
    }
    if let Ok(configuration) = Configuration::decode(data) {
        let again = Configuration::decode(&configuration.encode()).expect("an encoded configuration decodes");
        assert_eq!(again, configuration, "a configuration changes on its way");
    }
}

fn check_rpc(message: &Message) {
    if let Message::AppendEntries(append) = message {
        for entry in &append.entries {
            match entry.kind {
                EntryKind::Command => drop(Command::decode(&entry.data)),
                EntryKind::Configuration => drop(Configuration::decode(&entry.data)),
                EntryKind::Barrier => {}
            }
        }
    }
    let mut encoded = BytesMut::new();
    message.encode(&mut encoded);
    assert_eq!(encoded.len(), message.encoded_len(), "the length of a message is another than announced");
    let limits = RpcLimits { header_len: 2 * MAX_LEN, payload_len: 2 * MAX_LEN };
    let again = RpcDecoder::new(limits).decode(&mut encoded);
    let again = again.expect("what was encoded is well-formed").expect("and whole");
    assert_eq!(long_form(again), long_form(message.clone()), "a message changes on its way");
}

/// Results of old releases lack their last word, which is encoded as zero.
fn long_form(mut message: Message) -> Message {
    match &mut message {
        Message::AppendEntriesResult(result) => result.features = result.features.or(Some(0)),
        Message::RequestVoteResult(result) => result.pre_vote = result.pre_vote.or(Some(false)),
        _ => {}
    }
    message
}
