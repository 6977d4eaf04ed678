//! THE WAIST: every front end ends here.
use crate::registry::Project;
use crate::upstream::{Destination, ReplyBody};
use http::{Request, Response};
use hyper::body::Incoming;
use std::net::IpAddr;
use std::sync::Arc;

/// Which front end a request came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Absolute form, `https://`.
    Absolute,
    /// Absolute form, `http://`, lifted to TLS by a binding.
    Lifted,
    /// Absolute form, plain http.
    Plain,
    /// Inside an intercepted tunnel.
    Intercepted,
    /// A sidecar listener.
    Sidecar,
}

/// Who sends a request, and how it came.
#[derive(Clone)]
pub struct Inbound {
    /// The caller's project.
    pub project: Arc<Project>,
    /// The listener's name.
    pub listener: Arc<str>,
    /// How it came.
    pub way: Way,
    /// The client's address.
    pub peer: IpAddr,
    /// An authenticated or loopback caller: problem bodies carry facts.
    pub trusted: bool,
}

/// The waist.
pub struct Forwarder {
    _p: (),
}
impl Forwarder {
    /// Sends a request to its destination and gives back whatever the client is to see: the origin's answer, or
    /// egret's own with code, `Proxy-Status` and problem body. Policy on the name, selection, header rules, loop
    /// detection, the access-log line: all here. The request's URI may still be in absolute form; its Host header
    /// is replaced by the destination's authority.
    pub async fn forward(
        &self,
        _inbound: &Inbound,
        _to: Destination,
        _request: Request<Incoming>,
    ) -> Response<ReplyBody> {
        todo!()
    }
}
