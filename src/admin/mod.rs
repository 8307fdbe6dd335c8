//! HTTP for operators, on its own thread: `/metrics`, `/healthz`, `/readyz`. It reads what the workers count; no request of
//! a client comes here.

mod metrics;

use std::net::{SocketAddr, TcpListener};
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

/// Whoever connects waits until it is served.
pub fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves until it is dropped, or `stop`.
pub fn start(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<DropGuard> {
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
    Ok(stop.drop_guard())
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
