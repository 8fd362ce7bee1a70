//! Chooses locks, here only: the standard library's, or the model checker's under `--cfg shuttle`,
//! which then tries out interleavings (see `tests/shuttle`).

#[cfg(not(shuttle))]
pub(crate) use std::sync::{Mutex, MutexGuard};

#[cfg(shuttle)]
pub(crate) use shuttle::sync::{Mutex, MutexGuard};

/// `Send` where there are threads; no bound on wasm, where futures hold JavaScript values.
///
/// It depends on the target and never on a feature: features must not change what a type can do.
#[cfg(not(target_family = "wasm"))]
pub trait MaybeSend: Send {}
#[cfg(not(target_family = "wasm"))]
impl<T: Send + ?Sized> MaybeSend for T {}

/// `Send` where there are threads; no bound on wasm, where futures hold JavaScript values.
#[cfg(target_family = "wasm")]
pub trait MaybeSend {}
#[cfg(target_family = "wasm")]
impl<T: ?Sized> MaybeSend for T {}

/// `Sync` where there are threads; no bound on wasm.
#[cfg(not(target_family = "wasm"))]
pub trait MaybeSync: Sync {}
#[cfg(not(target_family = "wasm"))]
impl<T: Sync + ?Sized> MaybeSync for T {}

/// `Sync` where there are threads; no bound on wasm.
#[cfg(target_family = "wasm")]
pub trait MaybeSync {}
#[cfg(target_family = "wasm")]
impl<T: ?Sized> MaybeSync for T {}

/// A boxed future, `Send` where there are threads.
#[cfg(not(target_family = "wasm"))]
pub(crate) use futures_util::future::BoxFuture;
#[cfg(target_family = "wasm")]
pub(crate) use futures_util::future::LocalBoxFuture as BoxFuture;

/// A boxed stream, `Send` where there are threads.
#[cfg(all(
    any(
        feature = "http",
        all(feature = "durable-streams", feature = "cloudflare")
    ),
    not(target_family = "wasm")
))]
pub(crate) use futures_util::stream::BoxStream;
#[cfg(all(
    any(
        feature = "http",
        all(feature = "durable-streams", feature = "cloudflare")
    ),
    target_family = "wasm"
))]
pub(crate) use futures_util::stream::LocalBoxStream as BoxStream;

/// Locks data that cannot be left half-changed: whatever panics under the lock does so before the
/// first change, so a poisoned lock is safe to use.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
