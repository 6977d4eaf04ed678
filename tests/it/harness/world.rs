//! The people of a test: who vouches for servers, and two issuers of client certificates.

use std::path::PathBuf;

use tempfile::TempDir;

use super::certificates::{Authority, Pair};

/// Authorities of one test, and a folder for its files.
pub(crate) struct World {
    /// Vouches for the servers; egret is told so by `[trust] anchors`.
    pub(crate) root: Authority,
    /// Issues the client certificates of most origins.
    pub(crate) partner: Authority,
    /// Issues those of other origins.
    pub(crate) stranger: Authority,
    folder: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            root: Authority::root("servers of the test"),
            partner: Authority::root("partner"),
            stranger: Authority::root("stranger"),
            folder: tempfile::Builder::new().prefix("egret-test-").tempdir().expect("a temporary folder"),
        }
    }

    /// A server certificate for these names.
    pub(crate) fn server(&self, names: &[&str]) -> Pair {
        self.root.server(names)
    }

    /// A client certificate of the partner.
    pub(crate) fn client(&self, name: &str) -> Pair {
        self.partner.client(name)
    }

    /// A path in the test's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file into the test's folder.
    pub(crate) fn write(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, contents).expect("the test's own folder is writable");
        path
    }
}
