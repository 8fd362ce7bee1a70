//! Chooses how bytes get from the object to the Worker. Runs in the Worker.

/// The way of events from the object that has them to the Worker that answers a viewer. Viewers see no
/// difference: the bytes, statuses and positions are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transport {
    /// The object streams to the viewer itself. This is the fastest way. But a Durable Object stays in memory, and
    /// its duration is charged, while anybody watches, even while nothing happens: 460.8 GB-s an hour for each run
    /// that is watched.
    #[default]
    Direct,
    /// (Feature `hibernation`.) The Worker holds the viewer's response, and a hibernatable WebSocket joins it to the object,
    /// which leaves memory while nothing happens, however many people watch. Heartbeats come from
    /// the Worker.
    ///
    /// The object pushes pages by credit: a viewer never has more than 64 KiB unacknowledged, or one event that is
    /// larger, and the Worker holds at most twice that. A viewer costs the Worker a subrequest and the object a
    /// request, and a message for each 32 to 64 KiB that it takes. If events come quickly and viewers are many, each
    /// viewer gets several at once: rounds of delivery are 50 µs for each viewer apart. An object takes 32,768
    /// sockets. Viewers of one isolate of the Worker that do not read hold at most 32 MiB of its memory together;
    /// past that the slowest are cut off, and come back.
    ///
    /// Each end notices when the other disappears without notice: the Worker asks every 15 seconds, and the object's
    /// runtime answers without waking the object. A viewer's stream is then cut off within 30 seconds.
    #[cfg(feature = "hibernation")]
    Hibernating,
}
