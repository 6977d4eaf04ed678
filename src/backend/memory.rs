//! stub
use super::*;
/// stub
#[derive(Default)]
pub struct MemoryBackend;
impl Backend for MemoryBackend {
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
