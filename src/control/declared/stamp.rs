//! By what a file is known not to have changed, without reading it.

use std::path::Path;

use time::OffsetDateTime;

/// Files that changed no longer ago than this may change again within the same tick of the file system's clock.
const SETTLES: time::Duration = time::Duration::seconds(2);

/// What the file system says of some files: device, inode, size, and the times of their content and of themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamps(Vec<Stamp>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamps {
    /// `None` if one of them is not there, or where a system does not tell.
    #[cfg(unix)]
    pub(super) fn of<'a>(files: impl Iterator<Item = &'a Path>) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let stamp = |path| {
            let meta = std::fs::metadata(path).ok()?;
            Some(Stamp {
                file: (meta.dev(), meta.ino()),
                size: meta.size(),
                modified: (meta.mtime(), meta.mtime_nsec()),
                changed: (meta.ctime(), meta.ctime_nsec()),
            })
        };
        files.map(stamp).collect::<Option<_>>().map(Self)
    }

    #[cfg(not(unix))]
    pub(super) fn of<'a>(_files: impl Iterator<Item = &'a Path>) -> Option<Self> {
        None
    }

    /// Whether a change after these stamps were taken would show in them.
    pub(super) fn are_settled(&self, now: OffsetDateTime) -> bool {
        let newest = self.0.iter().map(|stamp| stamp.changed.0.max(stamp.modified.0)).max().unwrap_or_default();
        newest < (now - SETTLES).unix_timestamp()
    }
}
