//! HTTP for operators, on its own thread: `/metrics`, `/healthz`, `/readyz`. It reads what the workers count; no request of
//! a client comes here.

mod metrics;

use std::sync::Arc;
use std::thread;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::error;

use crate::hub::Shared;
use metrics::Exposition;

/// Serves until it is dropped, or `stop`. `None`: the configuration names no address.
pub fn start(shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<Option<DropGuard>> {
    let Some(address) = shared.config.admin else {
        return Ok(None);
    };
    let listener = std::net::TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    listener.set_nonblocking(true)?;
    let exposition = Exposition::new(shared.clone())?;
    let app = Router::new()
        .route(
            "/metrics",
            get(|State(exposition): State<Arc<Exposition>>| async move { exposition.render() }),
        )
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(|State(exposition): State<Arc<Exposition>>| async move { ready(&exposition) }),
        )
        .with_state(Arc::new(exposition));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stopping = stop.clone();
    thread::Builder::new().name("admin".into()).spawn(move || {
        runtime.block_on(async {
            let served = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    tokio::select! {
                        served = axum::serve(listener, app) => served,
                        () = stopping.cancelled() => Ok(()),
                    }
                }
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                error!(%error, "the admin address is served no longer");
            }
        });
    })?;
    Ok(Some(stop.drop_guard()))
}

fn ready(exposition: &Exposition) -> (StatusCode, String) {
    let shared = exposition.shared();
    let trouble = &shared.topology.snapshot().trouble;
    let (status, text) = match (shared.numbers().upstream_is_up, trouble.as_str()) {
        (true, "") => (StatusCode::OK, "ready"),
        // It serves the others: better than none of them.
        (true, trouble) => (StatusCode::OK, trouble),
        (false, "") => (StatusCode::SERVICE_UNAVAILABLE, "no connection to redis"),
        (false, trouble) => (StatusCode::SERVICE_UNAVAILABLE, trouble),
    };
    (status, format!("{text}\n"))
}
