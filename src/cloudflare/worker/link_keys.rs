//! The keys of links, from the Worker's secrets. Runs in the Worker.

use worker::Env;

use crate::access::LinkKeys;

impl LinkKeys {
    /// Reads the keys from a secret of the Worker, such as `SSETARGET_KEYS`: see [`parse`](Self::parse).
    ///
    /// # Errors
    /// When there is no such secret, or a key in it cannot be used. The message says what to do, and shows nothing of
    /// the keys.
    pub fn from_env(env: &Env, secret: &str) -> worker::Result<Self> {
        let list = env.secret(secret).map_err(|_| {
            worker::Error::BindingError(format!(
                "there is no secret {secret}: set it to k1:<key> with `npx wrangler secret put {secret}`, and for \
                 local development in the file .dev.vars (make a key with `openssl rand -base64 32`)"
            ))
        })?;
        Self::parse(&list.to_string())
            .map_err(|error| worker::Error::BindingError(format!("the secret {secret}: {error}")))
    }
}
