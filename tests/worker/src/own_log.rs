//! A user's own object that keeps and streams a log, and checks that its storage keeps the promise
//! of stores.

use std::borrow::Cow;

use serde::Serialize;
use ssetarget::cloudflare::{ObjectSql, sse_frame_response, sse_response};
use ssetarget::store::{Sql, SqlValue, contract};
use ssetarget::{
    Cursor, Event, MemoryEventStore, NullEventStore, SqliteEventStore, SseTarget, wire,
};
use worker::wasm_bindgen::UnwrapThrowExt;
use worker::{DurableObject, Env, Error, Request, Response, Result, State, durable_object};

/// `POST …/dispatch` dispatches the body, `GET …/sse` streams, `GET …/contract` runs the suite;
/// `POST …/whisper` and `GET …/whispers` are for connected viewers only.
#[durable_object]
pub struct OwnLog {
    state: State,
    sql: ObjectSql,
    target: SseTarget<Said, SqliteEventStore<ObjectSql>>,
    whispers: SseTarget<Said, NullEventStore>,
}

#[derive(Serialize)]
struct Said {
    text: String,
}

impl Event for Said {
    fn event_type(&self) -> Cow<'_, str> {
        "said".into()
    }

    fn is_terminal(&self) -> bool {
        self.text == "goodbye"
    }
}

impl DurableObject for OwnLog {
    fn new(state: State, _env: Env) -> Self {
        let sql = ObjectSql::new(&state).unwrap_throw();
        Self {
            target: SseTarget::new(SqliteEventStore::new(sql.clone())),
            whispers: SseTarget::new(NullEventStore::new()),
            sql,
            state,
        }
    }

    async fn fetch(&self, mut request: Request) -> Result<Response> {
        match request.path().rsplit('/').next() {
            Some("dispatch") => {
                let text = request.text().await?;
                let dispatched = self.target.dispatch(&Said { text }).await;
                Response::ok(format!("{:?}", dispatched.map_err(rust_error)?))
            }
            Some("sse") => {
                let last_event_id = request.headers().get("last-event-id")?;
                match wire::cursor(last_event_id.as_deref(), request.url()?.query()) {
                    Ok(cursor) => {
                        let subscription = self.target.subscribe(cursor).await;
                        sse_frame_response(subscription.map_err(rust_error)?)
                    }
                    Err(reason) => Response::error(reason.to_string(), 400),
                }
            }
            Some("whisper") => {
                let text = request.text().await?;
                let dispatched = self.whispers.dispatch(&Said { text }).await;
                dispatched.map_err(rust_error)?;
                Response::empty()
            }
            Some("whispers") => {
                let subscription = self.whispers.subscribe(Cursor::Latest).await;
                sse_response(subscription.map_err(rust_error)?)
            }
            Some("contract") => {
                contract::check(async || MemoryEventStore::new()).await;
                contract::check_transient(async || NullEventStore::new()).await;
                contract::check(async || self.empty_store().await).await;
                drop(self.empty_store().await);
                contract::check_reopened(async || SqliteEventStore::new(self.sql.clone())).await;
                drop(self.empty_store().await);
                contract::check_frames(async || SqliteEventStore::new(self.sql.clone())).await;
                let trim = async |store: &SqliteEventStore<ObjectSql>, last| {
                    store.trim(last).unwrap_throw();
                };
                contract::check_trimmed(async || self.empty_store().await, trim).await;
                self.all_or_none().await;
                Response::ok("the promise is kept")
            }
            _ => Response::error("there is nothing here", 404),
        }
    }
}

impl OwnLog {
    /// If one of several statements fails, nothing of those before it is left.
    async fn all_or_none(&self) {
        drop(self.empty_store().await);
        let statements = [
            ("CREATE TABLE one (number)", Vec::new()),
            ("INSERT INTO one VALUES (?1)", vec![SqlValue::Integer(1)]),
            ("INSERT INTO nowhere VALUES (1)", Vec::new()),
        ];
        let failed = self.sql.run_all(&statements);
        assert!(failed.is_err_and(|error| error.to_string().contains("nowhere")));
        let tables = "SELECT name FROM sqlite_master WHERE name = 'one'";
        assert!(self.sql.exec(tables, &[]).unwrap_throw().is_empty());
        self.sql.run_all(&statements[..2]).unwrap_throw();
        let rows = self.sql.exec("SELECT number FROM one", &[]);
        assert_eq!(rows.unwrap_throw().len(), 1);
    }

    async fn empty_store(&self) -> SqliteEventStore<ObjectSql> {
        self.state.storage().delete_all().await.unwrap_throw();
        SqliteEventStore::new(self.sql.clone())
    }
}

fn rust_error(error: impl std::error::Error) -> Error {
    Error::RustError(error.to_string())
}

/// Forwards a request to the log of this name.
pub async fn ask(env: &Env, name: &str, request: Request) -> Result<Response> {
    let log = env.durable_object("OWN_LOG")?.get_by_name(name)?;
    log.fetch_with_request(request).await
}
