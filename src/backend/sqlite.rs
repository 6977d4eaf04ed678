//! stub
use super::*;
/// stub
pub struct SqliteBackend;
impl SqliteBackend {
    /// Opens (and creates, 0600 in a 0700 folder) `<data_dir>/egret.db`.
    pub fn open(_data_dir: &std::path::Path) -> Result<Self, BackendError> {
        todo!()
    }
}
impl Backend for SqliteBackend {
    fn load(&self) -> BoxFuture<'_, Result<Loaded, BackendError>> {
        todo!()
    }
    fn commit(&self, _ops: Vec<Op>) -> BoxFuture<'_, Result<Revision, BackendError>> {
        todo!()
    }
    fn watch(&self, _after: Revision) -> Changes {
        todo!()
    }
}
