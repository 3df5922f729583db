//! Any bytes, in any chunking: the same frames, and what decodes is written and read again unchanged.

use metalbond_uring::internals::wire::{self, Deframer, FrameError, Message};

/// Everything up to the end or the first bad frame. A frame that does not decode is `None`.
type Read = (Vec<Option<Message>>, Option<FrameError>);

pub fn run(input: &[u8]) {
    let Some((&chunk_bytes, stream)) = input.split_first() else {
        return;
    };
    let whole = read(stream, stream.len().max(1));
    assert_eq!(read(stream, usize::from(chunk_bytes).max(1)), whole, "chunks of {chunk_bytes}");

    let messages: Vec<Message> = whole.0.into_iter().flatten().collect();
    let mut written = Vec::new();
    for message in &messages {
        message.encode(&mut written);
    }
    let (again, error) = read(&written, written.len().max(1));
    assert_eq!(error, None);
    assert!(again.into_iter().flatten().eq(messages), "written and read again");
}

fn read(stream: &[u8], chunk_bytes: usize) -> Read {
    let mut deframer = Deframer::new();
    let mut messages = Vec::new();
    for mut chunk in stream.chunks(chunk_bytes) {
        loop {
            match deframer.next(&mut chunk) {
                Ok(Some(frame)) => messages.push(wire::decode(frame).ok()),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}
