//! From a request to an answer.
//!
//! Owns paths, methods and status codes. Must never know how an answer is made.

use std::convert::Infallible;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
    REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};

use super::answer::{Body, Content, Refusal};
#[cfg(feature = "fabric")]
use super::fabric;
use super::metrics::{self, Exposition};
use super::query::Filter;
use super::routes::Format;
use super::{View, history, page, peers, ready, routes, summary, visibility, vnis};

/// Answers a request.
pub(super) async fn respond(
    view: Arc<View>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    let answer = match request.uri().path() {
        // The only page with two forms.
        "/metrics" => {
            let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
            match Filter::parse(request.uri().query(), &[]) {
                Ok(_) => metrics::metrics(&view, Exposition::of(accept)).await,
                Err(error) => Err(Refusal::Query(error)),
            }
        }
        path => content(&view, path, request.uri().query()).await,
    };
    Ok(match answer {
        Ok(content) => respond_with(StatusCode::OK, content),
        Err(Refusal::Query(error)) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        Err(Refusal::Busy) => {
            let words = "two tables are being told already: try again\n".to_owned();
            let mut response = text(StatusCode::SERVICE_UNAVAILABLE, words);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
        Err(Refusal::NotReady(why)) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        Err(Refusal::Gone) => text(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n".to_owned()),
        #[cfg(feature = "fabric")]
        Err(Refusal::NoFabric) => {
            let words = "this node belongs to no fabric (--fabric)\n".to_owned();
            text(StatusCode::NOT_FOUND, words)
        }
        Err(Refusal::NoPage) => {
            text(StatusCode::NOT_FOUND, format!("there is no such page; there are: {PATHS}\n"))
        }
    })
}

const PATHS: &str = "/ (for people), /summary.json, /routes.json, /routes.yaml, /peers.json, /vnis.json, \
                     /visibility.json, /history.json, /fabric.json, /metrics, /healthz, /livez, /readyz";

async fn content(view: &Arc<View>, path: &str, query: Option<&str>) -> Result<Content, Refusal> {
    let filter = |allowed: &[&str]| Filter::parse(query, allowed).map_err(Refusal::Query);
    match path {
        "/" => {
            filter(&[])?;
            Ok(page::page())
        }
        "/summary.json" => {
            filter(&[])?;
            summary::summary(view).await
        }
        "/routes.json" => {
            routes::routes(view, Format::Json, filter(&["vni", "prefix", "peer"])?).await
        }
        "/routes.yaml" => {
            routes::routes(view, Format::Yaml, filter(&["vni", "prefix", "peer"])?).await
        }
        "/peers.json" => peers::peers(view, &filter(&["peer", "vni"])?).await,
        "/vnis.json" => vnis::vnis(view, &filter(&["vni"])?).await,
        "/visibility.json" => visibility::visibility(view, &filter(&["prefix", "vni"])?).await,
        "/history.json" => Ok(history::history(view, &filter(&["after"])?)),
        #[cfg(feature = "fabric")]
        "/fabric.json" => {
            filter(&[])?;
            fabric::fabric(view).await
        }
        "/livez" => {
            filter(&[])?;
            ready::live(view).await
        }
        "/readyz" => {
            filter(&[])?;
            ready::ready(view).await
        }
        "/healthz" | "/health" => {
            filter(&[])?;
            Ok(Content::whole("text/plain; charset=utf-8", "ok\n"))
        }
        _ => Err(Refusal::NoPage),
    }
}

fn text(status: StatusCode, text: String) -> Response<Body> {
    respond_with(status, Content::whole("text/plain; charset=utf-8", text))
}

fn respond_with(status: StatusCode, content: Content) -> Response<Body> {
    let mut response = Response::new(content.body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if content.kind == page::KIND {
        headers.insert(CONTENT_SECURITY_POLICY, page::policy());
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content.kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
