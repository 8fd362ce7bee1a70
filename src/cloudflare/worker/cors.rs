//! [`Cors`] for Workers. Runs in the Worker.

use worker::{Headers, Request, Response, ResponseBuilder, web_sys};

use crate::cors::{Cors, CorsAnswer};

impl Cors {
    /// Answers a preflight, or adds the headers of CORS to the response of `serve`, whatever it is: `200`, `204`, a
    /// refusal, another object's answer. Returns an `Err` of `serve` unchanged.
    ///
    /// Use it for all of a Worker, or for one route of it:
    ///
    /// ```no_run
    /// use ssetarget::access::Public;
    /// use ssetarget::cloudflare::{WorkflowEventsNamespace, serve_sse};
    /// use ssetarget::Cors;
    /// use worker::{Request, Response};
    ///
    /// async fn watch(
    ///     request: Request,
    ///     id: &str,
    ///     events: &WorkflowEventsNamespace,
    /// ) -> worker::Result<Response> {
    ///     let cors = Cors::new(["https://app.example.com"]).map_err(|error| error.to_string())?;
    ///     cors.wrap(request, async |request| serve_sse(&request, id, events, &Public).await).await
    /// }
    /// ```
    ///
    /// # Errors
    /// Those of `serve`, and when the runtime refuses a header.
    pub async fn wrap(
        &self,
        request: Request,
        serve: impl AsyncFnOnce(Request) -> worker::Result<Response>,
    ) -> worker::Result<Response> {
        // Another handle of the same request.
        let asks = Clone::clone(request.inner());
        with_cors(self, &asks, serve(request)).await
    }
}

/// Answers a preflight, or adds the headers of CORS to the response. A preflight drops the future unpolled.
pub(super) async fn with_cors(
    cors: &Cors,
    request: &web_sys::Request,
    response: impl Future<Output = worker::Result<Response>>,
) -> worker::Result<Response> {
    let answer = answer(cors, request);
    let mut response = match answer.is_preflight() {
        true => ResponseBuilder::new().with_status(204).empty(),
        false => response.await?,
    };
    // Headers that came from an object refuse each change, and nothing is changed then. To copy all costs 40 µs.
    if apply(&answer, response.headers()).is_err() {
        response = with_own_headers(response)?;
        apply(&answer, response.headers())?;
    }
    #[cfg(feature = "durable-streams")]
    expose_stream(response.headers())?;
    Ok(response)
}

/// Lets pages that may read a durable stream read its end, too.
#[cfg(feature = "durable-streams")]
fn expose_stream(headers: &Headers) -> worker::Result<()> {
    const EXPOSE: &str = "access-control-expose-headers";
    if headers.has("stream-next-offset")? && headers.has(EXPOSE)? {
        headers.append(EXPOSE, crate::durable_streams::EXPOSED)?;
    }
    Ok(())
}

fn answer(cors: &Cors, request: &web_sys::Request) -> CorsAnswer {
    // The values of a repeated header are joined by commas here.
    let header = |name| request.headers().get(name).ok().flatten();
    let (origin, asks) = (header("origin"), header("access-control-request-method"));
    cors.answer(&request.method(), origin.as_deref(), asks.as_deref())
}

fn apply(answer: &CorsAnswer, headers: &Headers) -> worker::Result<()> {
    for (name, value) in answer.headers() {
        if name != "vary" {
            headers.set(name, value)?;
            continue;
        }
        let varies = headers.get(name)?.unwrap_or_default();
        let mut names = varies.split(',').map(str::trim);
        if !names.any(|by| by == "*" || by.eq_ignore_ascii_case(value)) {
            headers.append(name, value)?;
        }
    }
    Ok(())
}

/// Returns the same response with headers that can be set: those of a response that came from an object cannot. The
/// runtime itself passes the body on.
pub(in crate::cloudflare) fn with_own_headers(response: Response) -> worker::Result<Response> {
    let headers = web_sys::Headers::new_with_headers(&response.headers().0)?;
    Ok(response.with_headers(Headers(headers)))
}
