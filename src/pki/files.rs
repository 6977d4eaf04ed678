//! egret's own files: 0600 in a folder of 0700, never through a symbolic link.
//!
//! All that is particular to an operating system about files stands here, in `system`; a port fills in that module.
//! Files that operators mount (certificates, Secrets) are read as they are, whoever else may read them.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use zeroize::Zeroizing;

use crate::domain::hex;

/// Mode of egret's own files.
pub const FILE_MODE: u32 = 0o600;
/// Mode of the folder they are in.
pub const FOLDER_MODE: u32 = 0o700;

/// Why a file or folder of egret's own cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Others may read or write it.
    #[error("{} may be read or written by others (mode {mode:o}); run: chmod {want:o} {}", path.display(), path.display())]
    Permissions {
        /// Which file or folder.
        path: PathBuf,
        /// Mode found.
        mode: u32,
        /// Mode wanted.
        want: u32,
    },
    /// A symbolic link where egret keeps a file of its own.
    #[error("{} is a symbolic link, which egret does not follow for its own files; put the file itself there", .0.display())]
    Link(PathBuf),
    /// A folder where a file should be, or the other way round.
    #[error("{} is not a {wanted}; move it away", path.display())]
    Kind {
        /// Which.
        path: PathBuf,
        /// `regular file` or `folder`.
        wanted: &'static str,
    },
    /// The file system said no.
    #[error("{} cannot be {doing}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// `opened`, `created`, …
        doing: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl FileError {
    /// Whether the file simply is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    fn io(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), doing, source }
    }
}

/// Makes `path` and what is missing above it with mode 0700, durably; refuses it if others may look inside.
/// `path` itself may be a link to a folder: where data lies is the operator's choice.
///
/// # Errors
/// [`FileError`].
pub fn private_folder(path: &Path) -> Result<(), FileError> {
    let missing: Vec<&Path> = path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).collect();
    if !missing.is_empty() {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        system::set_builder_mode(&mut builder, FOLDER_MODE);
        builder.create(path).map_err(FileError::io(path, "created"))?;
        for made in missing {
            sync_folder(made.parent().unwrap_or(made))?;
        }
    }
    let metadata = path.metadata().map_err(FileError::io(path, "opened"))?;
    if !metadata.is_dir() {
        return Err(FileError::Kind { path: path.to_owned(), wanted: "folder" });
    }
    refuse_looser(path, &metadata, FOLDER_MODE)
}

/// Opens a file of egret's own for reading and, if `write`, writing.
///
/// # Errors
/// [`FileError`]: also if it is a link, no regular file, or others may read or write it.
pub fn open_private(path: &Path, write: bool) -> Result<File, FileError> {
    let file = system::options(FILE_MODE).read(true).write(write).open(path).map_err(|source| {
        if system::is_link(path) { FileError::Link(path.to_owned()) } else { FileError::io(path, "opened")(source) }
    })?;
    let metadata = file.metadata().map_err(FileError::io(path, "opened"))?;
    if !metadata.is_file() {
        return Err(FileError::Kind { path: path.to_owned(), wanted: "regular file" });
    }
    refuse_looser(path, &metadata, FILE_MODE)?;
    Ok(file)
}

/// The text of a file that an operator put there: PEM, perhaps a key, so no buffer that held it is left behind. Only of a
/// regular file (a link may lead to it): opening a FIFO would wait for whoever writes into it, perhaps for ever.
///
/// # Errors
/// What is wrong with it, to be said after its name.
pub fn mounted_text(path: &Path) -> Result<Zeroizing<String>, String> {
    /// No certificate, key or bundle is larger; a device or a wrong file may be.
    const MAX: u64 = 1024 * 1024;
    let file = system::open_mounted(path).map_err(|error| format!("cannot be opened: {error}"))?;
    let metadata = file.metadata().map_err(|error| format!("cannot be read: {error}"))?;
    if !metadata.is_file() {
        return Err("is no regular file; put the file itself, or a link to it, there".to_owned());
    }
    let length = metadata.len();
    if length > MAX {
        return Err("is larger than 1 MiB, so it is no certificate or key in PEM form".to_owned());
    }
    // One byte more than there is, so that reading to the end never grows the buffer.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or_default() + 1));
    file.take(length).read_to_end(&mut bytes).map_err(|error| format!("cannot be read: {error}"))?;
    String::from_utf8(std::mem::take(&mut *bytes)).map(Zeroizing::new).map_err(|error| {
        drop(Zeroizing::new(error.into_bytes()));
        "is not text; if it is DER or PKCS#12, convert it to PEM with openssl".to_owned()
    })
}

/// Creates a file of egret's own, 0600 whatever the umask; fails if anything is there already.
///
/// # Errors
/// [`FileError::Io`] (`AlreadyExists` among it).
pub fn create_private(path: &Path) -> Result<File, FileError> {
    let create = FileError::io(path, "created");
    let file = match system::options(FILE_MODE).read(true).write(true).create_new(true).open(path) {
        Ok(file) => file,
        Err(source) => return Err(create(source)),
    };
    system::set_mode(&file, FILE_MODE).map_err(FileError::io(path, "created"))?;
    Ok(file)
}

/// Creates a file of egret's own with all of `content`, durably. Killed at any instant, there is the whole file or none.
///
/// # Errors
/// [`FileError::Io`]; with `AlreadyExists` if anything is there already, which stays as it is.
pub fn create_whole(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let mut suffix = [0; 8];
    rand::fill(&mut suffix).map_err(|_| FileError::io(path, "created")(io::Error::other("no random numbers")))?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", hex(&suffix)));
    let temporary = PathBuf::from(name);
    let mut file = create_private(&temporary)?;
    let written = file.write_all(content).and_then(|()| file.sync_all()).map_err(FileError::io(path, "written"));
    // A link, unlike a rename, never displaces a file that is there already.
    let linked = written.and_then(|()| fs::hard_link(&temporary, path).map_err(FileError::io(path, "created")));
    let removed = fs::remove_file(&temporary).map_err(FileError::io(path, "created"));
    linked?;
    removed?;
    sync_folder(path.parent().unwrap_or(path))
}

/// Opens a file of egret's own, or creates it empty.
///
/// # Errors
/// As [`open_private`].
pub fn open_or_create_private(path: &Path) -> Result<File, FileError> {
    match create_private(path) {
        Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => open_private(path, true),
        other => other,
    }
}

/// Checks a file that may or may not be there.
///
/// # Errors
/// As [`open_private`], but a missing file is fine.
pub fn check_private(path: &Path) -> Result<(), FileError> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_symlink() => Err(FileError::Link(path.to_owned())),
        Ok(metadata) => refuse_looser(path, &metadata, FILE_MODE),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(FileError::io(path, "opened")(source)),
    }
}

/// Makes the names in a folder survive power loss.
///
/// # Errors
/// [`FileError::Io`].
pub fn sync_folder(path: &Path) -> Result<(), FileError> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    system::sync_folder(path).map_err(FileError::io(path, "synced"))
}

/// Reads at most `limit` bytes; `None` if there are more.
///
/// # Errors
/// Those of reading.
pub fn read_bounded(file: &File, limit: usize) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    // One buffer of the final size: a growing one would leave copies behind.
    let mut buffer = Zeroizing::new(Vec::with_capacity(limit + 1));
    file.take(limit as u64 + 1).read_to_end(&mut buffer)?;
    Ok((buffer.len() <= limit).then_some(buffer))
}

/// Whether everybody on the machine may read the file.
#[must_use]
pub fn is_world_readable(file: &File) -> bool {
    file.metadata().is_ok_and(|m| system::mode(&m) & 0o004 != 0)
}

fn refuse_looser(path: &Path, metadata: &std::fs::Metadata, want: u32) -> Result<(), FileError> {
    let mode = system::mode(metadata) & 0o7777;
    // What the owner may do is the owner's business; what anybody else may is not.
    if mode & 0o077 == 0 { Ok(()) } else { Err(FileError::Permissions { path: path.to_owned(), mode, want }) }
}

#[cfg(unix)]
mod system {
    use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions};
    use std::io;
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
    use std::path::Path;

    use rustix::fs::OFlags;

    /// Options that never follow a link at the end of the path. `O_NONBLOCK`: a FIFO put there must not hang the start.
    pub(super) fn options(mode: u32) -> OpenOptions {
        let mut options = OpenOptions::new();
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        options.mode(mode).custom_flags(flags.bits().cast_signed());
        options
    }

    /// Follows links: where mounted files lie is the operator's choice. `O_NONBLOCK` as above.
    pub(super) fn open_mounted(path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)
    }

    pub(super) fn set_builder_mode(builder: &mut DirBuilder, mode: u32) {
        builder.mode(mode);
    }

    pub(super) fn set_mode(file: &File, mode: u32) -> io::Result<()> {
        file.set_permissions(Permissions::from_mode(mode))
    }

    pub(super) fn mode(metadata: &Metadata) -> u32 {
        metadata.mode()
    }

    pub(super) fn is_link(path: &Path) -> bool {
        path.is_symlink()
    }

    pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn nobody_waits_for_a_writer_of_what_is_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("tls.crt");
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, rustix::fs::Mode::RUSR, 0).unwrap();
        for path in [pipe.as_path(), Path::new("/dev/zero"), dir.path()] {
            let refused = mounted_text(path).unwrap_err();
            assert!(refused.contains("no regular file"), "{}: {refused}", path.display());
        }
    }

    #[test]
    fn makes_folders_for_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        private_folder(&folder).unwrap();
        assert_eq!((mode(&folder), mode(&dir.path().join("a"))), (0o700, 0o700));
        private_folder(&folder).unwrap();
    }

    #[test]
    fn refuses_what_others_may_look_into_and_says_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        for bad in [0o750, 0o701, 0o777, 0o720] {
            fs::set_permissions(dir.path(), Permissions::from_mode(bad)).unwrap();
            let text = private_folder(dir.path()).unwrap_err().to_string();
            assert!(text.contains(&format!("chmod 700 {}", dir.path().display())), "{text}");
        }
        let file = dir.path().join("f");
        fs::write(&file, "x").unwrap();
        for bad in [0o640, 0o604, 0o666, 0o620] {
            fs::set_permissions(&file, Permissions::from_mode(bad)).unwrap();
            for refused in [open_private(&file, false).err(), check_private(&file).err()] {
                assert!(refused.unwrap().to_string().contains("chmod 600 "));
            }
        }
        fs::set_permissions(&file, Permissions::from_mode(0o400)).unwrap();
        open_private(&file, false).unwrap();
    }

    #[test]
    fn writes_a_file_whole_and_never_over_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        create_whole(&path, b"one").unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"one".to_vec(), FILE_MODE));
        let again = create_whole(&path, b"two").unwrap_err();
        assert!(matches!(again, FileError::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists));
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn follows_no_link_and_opens_no_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("t"), dir.path().join("l"));
        create_private(&target).unwrap();
        symlink(&target, &link).unwrap();
        assert!(matches!(open_private(&link, false), Err(FileError::Link(_))));
        assert!(matches!(check_private(&link), Err(FileError::Link(_))));
        assert!(matches!(open_or_create_private(&link), Err(FileError::Link(_))));
        assert!(matches!(open_private(dir.path(), false), Err(FileError::Kind { .. })));
        // A link to nowhere is not created through either.
        let dangling = dir.path().join("d");
        symlink(dir.path().join("nowhere"), &dangling).unwrap();
        assert!(open_or_create_private(&dangling).is_err());
        assert!(!dir.path().join("nowhere").exists());
    }

    #[test]
    fn reads_no_more_than_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, [1; 10]).unwrap();
        assert_eq!(read_bounded(&File::open(&path).unwrap(), 10).unwrap().unwrap().len(), 10);
        assert!(read_bounded(&File::open(&path).unwrap(), 9).unwrap().is_none());
    }
}
