//! One suite that every [`EventStore`](super::EventStore) must pass.
