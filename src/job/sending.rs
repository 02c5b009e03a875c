//! `btrfs send` as the source of a backup.

use std::io::{self, Read};
use std::sync::Arc;

use crate::backup::{Interruption, Stream, StreamSource};
use crate::btrfs::command::SendChild;

/// The stream of a running `btrfs send`. Dropped before its end, it stops the command.
#[derive(Debug)]
pub struct SendSource(SendChild);

impl SendSource {
    /// Makes a stream of a running command.
    #[must_use]
    pub fn stream(child: SendChild, interruption: Interruption) -> Stream {
        let kill = child.kill_handle();
        Stream { source: Box::new(Self(child)), stop: Some(Arc::new(move || kill.kill())), interruption }
    }
}

impl Read for SendSource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl StreamSource for SendSource {
    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        Ok(self.0.finish()?)
    }
}
