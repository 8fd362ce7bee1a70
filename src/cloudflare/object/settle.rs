//! Asks the platform how a run has ended, if the run itself did not say. Runs in the object.

use std::time::Duration;

use cloudflare_workflows::{Runtime, WorkersRuntime, Workflow};
use worker::Storage;

use super::alarm_time::arm;
use super::error::{JsResult, to_js};
use super::log::WorkflowLog;
use super::stored::Stored;
use crate::clock;
use crate::cloudflare::instance_end::{instance_end, platform_log};
use crate::cloudflare::sql::ObjectSql;

/// An instance, and the binding that is asked about it.
pub(super) struct Asked<'a> {
    pub(super) binding: Workflow,
    /// The workflow's name.
    pub(super) name: &'a str,
    pub(super) instance: &'a str,
}

/// Ends the log of a run that the platform says is over, from the object itself. Returns whether the log was changed.
///
/// The platform is asked twice, before and after reading the state of the log and the platform's own log: if the
/// instance is restarted in between, the second answer says that it runs, or a lifetime has opened the log since.
pub(super) async fn end_if_over(log: &WorkflowLog<ObjectSql>, asked: &Asked<'_>) -> JsResult<bool> {
    let ask = async || {
        let end = instance_end(&asked.binding, asked.instance).await;
        end.map_err(worker::Error::from)
    };
    let Some(end) = ask().await? else {
        return Ok(false);
    };
    let stood = log.stands(WorkersRuntime.now()).map_err(to_js)?;
    let platform = platform_log(&asked.binding, asked.instance, &end).await;
    let Some(end) = ask().await? else {
        return Ok(false);
    };
    let stood = Some((stood.run, stood.generation));
    let settled = log.settle(stood, asked.name, &end, &platform, WorkersRuntime.now());
    settled.map_err(to_js)
}

/// A pending question to the platform. Kept in storage, since an object without viewers does not stay in memory until
/// its alarm.
pub(super) struct Pending {
    /// The object's name, which the object may not know in an alarm.
    pub(super) object: String,
    /// The number of times that the platform was asked.
    tries: u32,
    /// When it is to be asked, in milliseconds since 1970.
    at: u64,
}

/// The key of [`Pending`] in storage.
const KEY: &str = "settle";
/// The delay before the first question: an instance that fails needs a moment until its status says so.
const FIRST: Duration = Duration::from_secs(3);
/// The number of times that the platform is asked: after 3, 6, 12 ... seconds, the last time after about an hour and
/// a half. An instance that goes on opens its log itself.
const TRIES: u32 = 11;

impl Pending {
    /// Returns a question that was not asked yet.
    pub(super) fn new(object: String) -> Self {
        Self {
            object,
            tries: 0,
            at: 0,
        }
    }

    /// Returns the stored question, if the platform is still to be asked.
    pub(super) async fn due(storage: &Storage) -> JsResult<Option<Self>> {
        let Some(stored) = Stored::get(storage, KEY).await? else {
            return Ok(None);
        };
        let tries = stored.number("tries");
        let tries = tries.and_then(|tries| u32::try_from(tries).ok());
        match (stored.text("object"), tries) {
            (Some(object), Some(tries)) => Ok(Some(Self {
                object,
                tries,
                at: stored.number("at").unwrap_or_default(),
            })),
            _ => Err(Stored::unreadable(KEY)),
        }
    }

    /// Returns when the platform is to be asked, in milliseconds since 1970, if it is.
    #[cfg(any(feature = "otlp", feature = "index"))]
    pub(super) async fn due_at(storage: &Storage) -> JsResult<Option<u64>> {
        Ok(Self::due(storage).await?.map(|pending| pending.at))
    }

    /// Sets the alarm for the next question, unless the run has ended, whose alarm is for the log's
    /// retention, or the platform was asked often enough.
    pub(super) async fn schedule(
        mut self,
        storage: &Storage,
        log: &WorkflowLog<ObjectSql>,
    ) -> JsResult<()> {
        let state = log.state().map_err(to_js)?;
        if state.ended || state.empty || self.tries >= TRIES {
            return Self::clear(storage).await;
        }
        let delay = FIRST * 2_u32.pow(self.tries);
        self.tries += 1;
        self.at = clock::milliseconds(WorkersRuntime.now() + delay);
        let fields = [
            ("object", self.object.into()),
            ("tries", self.tries.into()),
            ("at", (self.at as f64).into()),
        ];
        Stored::put(storage, KEY, &fields).await?;
        // Does not replace the alarm of a run that has ended in the meantime.
        if !log.state().map_err(to_js)?.ended {
            arm(storage, delay).await?;
        }
        Ok(())
    }

    /// Removes the stored question: the platform is not to be asked any more.
    pub(super) async fn clear(storage: &Storage) -> JsResult<()> {
        storage.delete(KEY).await?;
        Ok(())
    }
}
