//! Sockets that a parent process made, listens on, and hands over (sd_listen_fds(3)): systemd, and what does as it does.
//!
//! `LISTEN_FDS` says how many they are, from descriptor 3 on, `LISTEN_FDNAMES` what they are called, and `LISTEN_PID` for
//! whom they are; nothing is taken that is for another process.

use std::net::TcpListener;

use listenfd::ListenFd;

use super::{ListenError, Listening, Socket};
use crate::domain::Endpoint;

/// The variables of the protocol: none of a child's business.
pub const VARIABLES: [&str; 4] = ["LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// The sockets that were handed over and that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Passed(Vec<(String, Listening)>);

impl Passed {
    /// Takes what this process was started with; once, and before it has threads.
    ///
    /// # Errors
    /// One that is no listening TCP or Unix stream socket; says which.
    pub fn take() -> Result<Self, ListenError> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut all = ListenFd::from_env();
        let mut names = names.split(':').map(str::to_owned);
        let each = (0..all.len()).map(|index| {
            let name = names.next().filter(|name| !name.is_empty()).unwrap_or_else(|| "unknown".to_owned());
            let socket = taken(&mut all, index).ok_or_else(|| ListenError::Passed(name.clone()))?;
            Ok((name, socket))
        });
        each.collect::<Result<_, _>>().map(Self)
    }

    /// The socket of this name.
    pub fn named(&mut self, name: &str) -> Option<Listening> {
        let at = self.0.iter().position(|(called, _)| called == name)?;
        Some(self.0.remove(at).1)
    }

    /// The socket that listens at this address.
    pub fn at(&mut self, endpoint: &Endpoint) -> Option<Listening> {
        let at = self.0.iter().position(|(_, socket)| socket.endpoint() == endpoint)?;
        Some(self.0.remove(at).1)
    }

    /// What nobody has taken: name and address of each.
    pub fn left(&self) -> impl Iterator<Item = (&str, &Endpoint)> {
        self.0.iter().map(|(name, socket)| (name.as_str(), socket.endpoint()))
    }
}

fn taken(all: &mut ListenFd, index: usize) -> Option<Listening> {
    if let Ok(Some(socket)) = all.take_tcp_listener(index) {
        return tcp(socket);
    }
    #[cfg(unix)]
    if let Ok(Some(socket)) = all.take_unix_listener(index) {
        let path = socket.local_addr().ok()?.as_pathname()?.to_owned();
        socket2::SockRef::from(&socket).is_listener().ok().filter(|listens| *listens)?;
        socket.set_nonblocking(true).ok()?;
        let socket = Socket::Unix(super::UnixSocket::of(socket));
        return Some(Listening { endpoint: Endpoint::Unix(path), socket, passed: true });
    }
    None
}

fn tcp(socket: TcpListener) -> Option<Listening> {
    socket2::SockRef::from(&socket).is_listener().ok().filter(|listens| *listens)?;
    socket.set_nonblocking(true).ok()?;
    Some(Listening { endpoint: socket.local_addr().ok()?.into(), socket: Socket::Tcp(socket), passed: true })
}

#[cfg(test)]
impl Passed {
    /// As if these had been handed over.
    pub(crate) fn of(sockets: Vec<(&str, TcpListener)>) -> Self {
        Self(sockets.into_iter().map(|(name, socket)| (name.to_owned(), tcp(socket).expect("it listens"))).collect())
    }
}
