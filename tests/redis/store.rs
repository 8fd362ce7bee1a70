//! The contract of stores.

use std::sync::atomic::{AtomicU64, Ordering};

use ssetarget::store::contract;
use ssetarget::store::redis::{RedisClient, RedisEventStore};

use crate::harness::tests;
use crate::server::Server;

tests! {
    async fn keeps_the_promise() {
        let server = Server::forgetful();
        let client = RedisClient::new(&server.url()).unwrap();
        contract::check(async || RedisEventStore::new(&client, &name())).await;
        contract::check_trimmed(
            async || RedisEventStore::new(&client, &name()),
            async |store, last| store.trim(last).await.unwrap(),
        )
        .await;
        assert_eq!(server.connections(), 1);
    }

    async fn is_the_same_after_reopening() {
        let server = Server::start();
        contract::check_reopened(async || {
            RedisEventStore::new(&RedisClient::new(&server.url()).unwrap(), "log")
        })
        .await;
    }
}

fn name() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed).to_string()
}
