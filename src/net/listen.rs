//! Sockets that clients connect to: TCP, or a Unix socket in a file.
//!
//! What must stay true of a Unix socket:
//! - Nobody ever connects to it under a wider mode than was asked for: the mode is set between `bind` and `listen`,
//!   and a socket that does not listen yet refuses everybody (unix(7), `ECONNREFUSED`). (A umask would be the
//!   process's, and a temporary name would not fit where the final one just does.)
//! - A file is replaced only if it is a socket at which nobody listens. Two that start at once are kept apart by a
//!   lock on the folder, so that neither takes the other's fresh socket for a dead one's.
//! - The file is removed at the end only if it is still the one that was made.
//!
//! A socket that was made by somebody else and handed over ([`Passed`]) belongs to them: it goes on when egret ends, its
//! file stays, and whoever waits in its queue is for the next process.

use std::io;
use std::net::{SocketAddr, TcpListener};

use super::Stream;
use crate::domain::{Endpoint, Peer};

pub use passed::{Passed, VARIABLES};
#[cfg(unix)]
use unix::{SocketFile, UnixSocket};

/// Clients that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Why nothing listens. Says what to do; the endpoint is for the caller to name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The system said no.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The address belongs to somebody.
    #[error("the address is taken; end what listens there, or choose another port (0 finds a free one)")]
    Taken,
    /// Somebody listens at the socket.
    #[error("another process listens at this socket; end it, or choose another path")]
    Alive,
    /// Something else has the name.
    #[error("there is a file of another kind, which is never removed; move it away, or choose another path")]
    NotASocket,
    /// There is a socket, and whether anybody listens cannot be found out.
    #[error(
        "there is a socket whose owner cannot be asked ({0}); remove it if it is left over, or choose another path"
    )]
    Unknown(io::Error),
    /// What was handed over is of no use.
    #[error(
        "the socket named {0}, which was handed over, is no TCP or Unix stream socket that listens; look at the .socket unit"
    )]
    Passed(String),
    /// No such folder.
    #[error("the folder of the socket does not exist; make it, with access for those who are to connect")]
    NoFolder,
}

/// A socket that listens. Clients wait in the kernel's queue until somebody accepts.
#[derive(Debug)]
pub struct Listening {
    endpoint: Endpoint,
    socket: Socket,
    /// Somebody else made it, and keeps it.
    passed: bool,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixSocket),
}

impl Listening {
    /// Binds `endpoint` and listens there. `mode` is the mode of a Unix socket's file; `only_v6` keeps an IPv6 address
    /// from taking IPv4 clients too.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn bind(endpoint: &Endpoint, mode: u32, only_v6: bool) -> Result<Self, ListenError> {
        match endpoint {
            Endpoint::Tcp(address) => {
                let socket = tcp(*address, only_v6).map_err(|error| match error.kind() {
                    io::ErrorKind::AddrInUse => ListenError::Taken,
                    _ => ListenError::Io(error),
                })?;
                Ok(Self { endpoint: socket.local_addr()?.into(), socket: Socket::Tcp(socket), passed: false })
            }
            #[cfg(unix)]
            Endpoint::Unix(path) => {
                let socket = Socket::Unix(UnixSocket::bind(path, mode)?);
                Ok(Self { endpoint: endpoint.clone(), socket, passed: false })
            }
            #[cfg(not(unix))]
            Endpoint::Unix(_) => {
                let _ = mode;
                Err(ListenError::Io(io::ErrorKind::Unsupported.into()))
            }
        }
    }

    /// Where it listens; the real port if 0 was asked for.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Removes the file of a Unix socket when told to or when dropped; nothing for TCP, and for what was handed over.
    #[must_use]
    pub fn remover(&self) -> Remover {
        Remover {
            #[cfg(unix)]
            file: match &self.socket {
                Socket::Tcp(_) => None,
                Socket::Unix(socket) => socket.file(),
            },
        }
    }

    /// Begins to accept. Must be called inside a runtime.
    ///
    /// # Errors
    /// The runtime does not take the socket.
    pub fn accepting(self) -> io::Result<Accepting> {
        let socket = match self.socket {
            Socket::Tcp(socket) => Accepts::Tcp(tokio::net::TcpListener::from_std(socket)?),
            #[cfg(unix)]
            Socket::Unix(socket) => {
                let (socket, file) = socket.into_parts();
                Accepts::Unix(Removed(file), tokio::net::UnixListener::from_std(socket)?)
            }
        };
        Ok(Accepting { socket, passed: self.passed })
    }
}

/// See [`Listening::remover`].
#[derive(Debug)]
pub struct Remover {
    #[cfg(unix)]
    file: Option<std::sync::Arc<SocketFile>>,
}

impl Drop for Remover {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(file) = &self.file {
            file.remove();
        }
    }
}

/// A socket from which clients are accepted. Dropping it closes it and removes the file of a Unix socket.
#[derive(Debug)]
pub struct Accepting {
    socket: Accepts,
    passed: bool,
}

#[derive(Debug)]
enum Accepts {
    /// TCP.
    Tcp(tokio::net::TcpListener),
    /// A Unix socket. The file goes before the socket is closed: while it is open, no other file can have its number.
    #[cfg(unix)]
    Unix(Removed, tokio::net::UnixListener),
}

/// Removes the file when dropped.
#[cfg(unix)]
#[derive(Debug)]
struct Removed(Option<std::sync::Arc<SocketFile>>);

#[cfg(unix)]
impl Drop for Removed {
    fn drop(&mut self) {
        if let Some(file) = &self.0 {
            file.remove();
        }
    }
}

/// A client.
#[derive(Debug)]
pub struct Accepted {
    /// Its connection.
    pub stream: Stream,
    /// Who it is.
    pub peer: Peer,
    /// Its address and ours, for TCP.
    pub ends: Option<(SocketAddr, SocketAddr)>,
}

impl Accepting {
    /// The next client. May be dropped while it waits.
    ///
    /// # Errors
    /// As accept(2); see [`is_of_the_connection`].
    pub async fn accept(&self) -> io::Result<Accepted> {
        match &self.socket {
            Accepts::Tcp(socket) => socket.accept().await.map(|(stream, peer)| Accepted::tcp(stream, peer)),
            #[cfg(unix)]
            Accepts::Unix(_, socket) => socket.accept().await.map(|(stream, _)| Accepted::unix(stream)),
        }
    }

    /// Stops listening, and takes those who wait in the kernel's queue already: a connection that is closed there is
    /// reset under a client who believes that it is served. Nobody, if the socket was handed over: it goes on, and who
    /// waits is for the next process. Closed when the iterator is dropped. Must be used inside a runtime.
    pub fn close(self) -> Closing {
        let socket = match self.socket {
            _ if self.passed => None,
            Accepts::Tcp(socket) => socket.into_std().ok().map(Socket::Tcp),
            #[cfg(unix)]
            Accepts::Unix(removed, socket) => {
                // Without its file nobody finds the socket any more, so the queue only gets shorter.
                drop(removed);
                socket.into_std().ok().map(|socket| Socket::Unix(UnixSocket::of(socket)))
            }
        };
        Closing(socket)
    }
}

/// Those who waited when a socket was closed; see [`Accepting::close`].
#[derive(Debug)]
pub struct Closing(Option<Socket>);

impl Iterator for Closing {
    type Item = Accepted;

    fn next(&mut self) -> Option<Accepted> {
        loop {
            // Asked of the kernel itself: the runtime may not have heard of the last ones yet.
            let accepted = match self.0.as_ref()? {
                Socket::Tcp(socket) => socket.accept().and_then(|(stream, peer)| {
                    stream.set_nonblocking(true)?;
                    Ok(Accepted::tcp(tokio::net::TcpStream::from_std(stream)?, peer))
                }),
                #[cfg(unix)]
                Socket::Unix(socket) => socket.accept().and_then(|stream| {
                    stream.set_nonblocking(true)?;
                    Ok(Accepted::unix(tokio::net::UnixStream::from_std(stream)?))
                }),
            };
            match accepted {
                Ok(accepted) => return Some(accepted),
                Err(error) if is_of_the_connection(&error) => {}
                Err(_) => {
                    self.0 = None;
                    return None;
                }
            }
        }
    }
}

impl Accepted {
    fn tcp(stream: tokio::net::TcpStream, peer: SocketAddr) -> Self {
        let ends = stream.local_addr().ok().map(|local| (peer, local));
        Self { stream: stream.into(), peer: peer.ip().into(), ends }
    }

    #[cfg(unix)]
    fn unix(stream: tokio::net::UnixStream) -> Self {
        let uid = stream.peer_cred().ok().map(|credentials| credentials.uid());
        Self { stream: stream.into(), peer: Peer::Unix(uid), ends: None }
    }
}

/// Whether accepting failed for one connection only, so that the next may follow at once.
#[must_use]
pub fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

fn tcp(address: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let family = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(family, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    // A restart must not wait for old connections to leave TIME_WAIT.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    if only_v6 && address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

mod passed;
#[cfg(unix)]
mod unix;

#[cfg(all(test, unix))]
mod tests;
