//! Where egret's own listeners are, and who connects to them: an address, or a Unix socket.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// In front of the path of a Unix socket, wherever an address is written.
const UNIX: &str = "unix:";
/// Room for a path in `sockaddr_un`, less the NUL byte that ends it (unix(7)).
const MAX_PATH: usize = if cfg!(any(target_os = "linux", target_os = "android")) { 107 } else { 103 };

/// Where something listens: `127.0.0.1:8080`, `[::1]:8080` or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// An IP address and a port; port 0 = any free one.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Why a text is no [`Endpoint`]; never repeats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Neither form.
    #[error(
        "this is neither an IP address with a port nor unix:PATH; write it as 127.0.0.1:8080, [::1]:8080 (port 0 = any free one) or unix:/run/egret.sock"
    )]
    Form,
    /// `unix:` and nothing behind it, or a path that names no file.
    #[error("the path of the Unix socket names no file; write it as unix:/run/egret.sock")]
    NoFile,
    /// `unix:@name`.
    #[error(
        "Linux's abstract sockets (unix:@NAME) have no mode that would keep others out; write the path of a file, as unix:/run/egret.sock"
    )]
    Abstract,
    /// A path with a NUL byte.
    #[error("the path of the Unix socket has a NUL byte; write it as unix:/run/egret.sock")]
    Nul,
    /// Longer than the kernel takes.
    #[error(
        "the path of the Unix socket has {0} bytes, and the system takes no more than {MAX_PATH}; choose a shorter one, as in /run/egret"
    )]
    Long(usize),
    /// Not on this system.
    #[error("this system has no Unix sockets; write it as 127.0.0.1:8080")]
    Platform,
}

impl Endpoint {
    /// The address; `None` for a Unix socket.
    #[must_use]
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Whether only this machine can connect. `::ffff:127.0.0.1` is loopback as well.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// The same, with a relative path taken from `folder`.
    ///
    /// # Errors
    /// [`EndpointError::Long`]: it is too long then.
    pub fn resolved(self, folder: &Path) -> Result<Self, EndpointError> {
        match self {
            Self::Tcp(_) => Ok(self),
            Self::Unix(path) => {
                let path = folder.join(path);
                let bytes = path.as_os_str().len();
                if bytes > MAX_PATH { Err(EndpointError::Long(bytes)) } else { Ok(Self::Unix(path)) }
            }
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let Some(path) = text.strip_prefix(UNIX) else {
            return text.parse().map(Self::Tcp).map_err(|_| EndpointError::Form);
        };
        if !cfg!(unix) {
            return Err(EndpointError::Platform);
        }
        if path.contains('\0') {
            return Err(EndpointError::Nul);
        }
        if path.starts_with('@') {
            return Err(EndpointError::Abstract);
        }
        if path.ends_with('/') || Path::new(path).file_name().is_none() {
            return Err(EndpointError::NoFile);
        }
        Self::Unix(PathBuf::from(path)).resolved(Path::new(""))
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// Who is at the other end of a client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// An address, IPv4-mapped ones as IPv4.
    Ip(IpAddr),
    /// Somebody on a Unix socket, with the user id that the kernel names.
    Unix(Option<u32>),
}

impl Peer {
    /// On this machine: such a peer is told facts, and no cap per address applies to it.
    #[must_use]
    pub fn is_local(self) -> bool {
        match self {
            Self::Ip(ip) => ip.is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl From<IpAddr> for Peer {
    fn from(ip: IpAddr) -> Self {
        Self::Ip(ip.to_canonical())
    }
}

/// An address, `unix`, or `unix:uid=1000`.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Unix(None) => f.write_str("unix"),
            Self::Unix(Some(uid)) => write!(f, "unix:uid={uid}"),
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_both_forms() {
        for text in ["127.0.0.1:8080", "[::1]:0", "unix:/run/egret.sock", "unix:egret.sock"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        let relative: Endpoint = "unix:egret.sock".parse().unwrap();
        assert_eq!(relative.clone().resolved(Path::new("/etc")).unwrap().to_string(), "unix:/etc/egret.sock");
        assert_eq!(relative.tcp(), None);
        for (text, local) in
            [("unix:a", true), ("[::ffff:127.0.0.1]:1", true), ("[::]:1", false), ("10.0.0.1:1", false)]
        {
            assert_eq!(text.parse::<Endpoint>().unwrap().is_local(), local, "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_path() {
        let refused = |text: &str| text.parse::<Endpoint>().unwrap_err();
        assert_eq!(refused("localhost:80"), EndpointError::Form);
        assert_eq!(refused("/run/egret.sock"), EndpointError::Form);
        for text in ["unix:", "unix:/", "unix:/run/", "unix:..", "unix:/run/.."] {
            assert_eq!(refused(text), EndpointError::NoFile, "{text}");
        }
        assert_eq!(refused("unix:@egret"), EndpointError::Abstract);
        assert_eq!(refused("unix:/a\0b"), EndpointError::Nul);
        assert!(format!("unix:/{}", "x".repeat(MAX_PATH - 1)).parse::<Endpoint>().is_ok());
        assert_eq!(refused(&format!("unix:/{}", "x".repeat(MAX_PATH))), EndpointError::Long(MAX_PATH + 1));
        let long = "unix:egret.sock".parse::<Endpoint>().unwrap().resolved(&PathBuf::from("x".repeat(MAX_PATH)));
        assert_eq!(long, Err(EndpointError::Long(MAX_PATH + 1 + "egret.sock".len())));
    }

    #[test]
    fn tells_peers_apart() {
        assert_eq!(Peer::from("::ffff:192.0.2.1".parse::<IpAddr>().unwrap()).to_string(), "192.0.2.1");
        assert_eq!(Peer::Unix(Some(1000)).to_string(), "unix:uid=1000");
        assert!(Peer::Unix(None).is_local() && Peer::from(IpAddr::from([127, 9, 9, 9])).is_local());
        assert!(!Peer::from(IpAddr::from([192, 0, 2, 1])).is_local());
    }
}
