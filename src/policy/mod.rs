//! stub
use crate::domain::{Code, Host};
use std::net::SocketAddr;
/// stub
pub struct Denied {
    /// code
    pub code: Code,
    /// why
    pub why: String,
}
/// stub
pub struct EgressPolicy;
impl EgressPolicy {
    /// stub
    pub fn new(_s: &crate::config::EgressSettings) -> Self {
        Self
    }
    /// stub
    pub fn judge_origin(&self, _h: &Host, _port: u16, _tls: bool) -> Result<(), Denied> {
        Ok(())
    }
    /// stub
    pub fn judge_address(&self, _a: SocketAddr) -> Result<(), Denied> {
        Ok(())
    }
}
