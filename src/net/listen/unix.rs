//! The file of a Unix socket: made, told from others, and removed.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{BACKLOG, ListenError};

/// How often, and after what pause, the lock of the folder is tried: another start holds it for milliseconds, and
/// whoever holds on to it for longer is none.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A Unix socket that listens, and its file.
#[derive(Debug)]
pub(super) struct UnixSocket {
    socket: UnixListener,
    /// `None`: somebody else made it.
    file: Option<Arc<SocketFile>>,
}

impl UnixSocket {
    pub(super) fn bind(path: &Path, mode: u32) -> Result<Self, ListenError> {
        let _lock = lock(path);
        make_room(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // Linux makes the file with the mode of the socket, less the umask.
        #[cfg(target_os = "linux")]
        let _ = rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(mode));
        socket.bind(&SockAddr::unix(path)?).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ListenError::NoFolder,
            io::ErrorKind::AddrInUse => ListenError::Alive,
            _ => ListenError::Io(error),
        })?;
        let made = std::fs::symlink_metadata(path)?;
        let file =
            SocketFile { path: path.to_owned(), number: (made.dev(), made.ino()), removed: AtomicBool::new(false) };
        let listen = || {
            if made.permissions().mode() & 0o777 != mode {
                // The umask took bits away, or the system has a way of its own. Nobody can connect yet.
                std::fs::set_permissions(path, Permissions::from_mode(mode))?;
            }
            socket.set_nonblocking(true)?;
            socket.listen(BACKLOG)
        };
        if let Err(error) = listen() {
            file.remove_locked();
            return Err(error.into());
        }
        Ok(Self { socket: socket.into(), file: Some(Arc::new(file)) })
    }

    /// A socket whose file is somebody else's business.
    pub(super) fn of(socket: UnixListener) -> Self {
        Self { socket, file: None }
    }

    pub(super) fn accept(&self) -> io::Result<UnixStream> {
        self.socket.accept().map(|(stream, _)| stream)
    }

    pub(super) fn file(&self) -> Option<Arc<SocketFile>> {
        self.file.clone()
    }

    pub(super) fn into_parts(self) -> (UnixListener, Option<Arc<SocketFile>>) {
        (self.socket, self.file)
    }
}

/// The file that one `bind` made.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    number: (u64, u64),
    removed: AtomicBool,
}

impl SocketFile {
    /// Removes the file, once, unless another one has its name by now.
    pub(super) fn remove(&self) {
        if self.removed.load(Ordering::Relaxed) {
            return;
        }
        let _lock = lock(&self.path);
        self.remove_locked();
    }

    fn remove_locked(&self) {
        if self.removed.swap(true, Ordering::Relaxed) {
            return;
        }
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| found.file_type().is_socket() && (found.dev(), found.ino()) == self.number);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "the file of a Unix socket could not be removed");
        }
    }
}

/// Keeps other starts in this folder away until dropped. Where it cannot be had (a file system without locks, a folder
/// that may not be read), egret goes on without: only two starts at the very same moment would notice.
fn lock(path: &Path) -> Option<File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = File::open(folder).ok()?;
    for _ in 0..LOCK_TRIES {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(folder),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => std::thread::sleep(LOCK_PAUSE),
            Err(_) => return None,
        }
    }
    None
}

/// Removes a socket at which nobody listens; anything else stays and is an error.
fn make_room(path: &Path) -> Result<(), ListenError> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if !found.file_type().is_socket() {
        return Err(ListenError::NotASocket);
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A socket whose queue is full would make a blocking connect wait for its owner.
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => Err(ListenError::Alive),
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => Ok(std::fs::remove_file(path)?),
            io::ErrorKind::NotFound => Ok(()),
            io::ErrorKind::WouldBlock => Err(ListenError::Alive),
            _ => Err(ListenError::Unknown(error)),
        },
    }
}
