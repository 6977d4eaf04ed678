//! Work that is kept off the threads that answer requests; and of that, what nobody waits for as long as requests wait.

use tokio::sync::oneshot;

use super::ControlError;
use crate::pki::validate::Fault;

/// The lowest priority that there is: what is left of a core when everybody else has had theirs.
#[cfg(target_os = "linux")]
const LOWEST: i32 = 19;

/// Runs `work` on a thread of its own that gives way to all others (Linux; elsewhere it is a thread like any other): ten
/// thousand certificates are read and judged beside requests, and not before them. The thread ends with the work.
///
/// # Errors
/// A sentence: the thread could not be started, or the work panicked.
pub(super) async fn quietly<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let (done, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name("egret-reading".to_owned());
    let begun = thread.spawn(move || {
        // The kernel takes a thread's number for a process here. Giving way is never refused; where a sandbox does it all
        // the same, the work is done as well.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), LOWEST);
        // Nobody may wait any more.
        let _ = done.send(work());
    });
    begun.map_err(|error| format!("a thread could not be started: {error}"))?;
    result.await.map_err(|_| "it ended early; see the log".to_owned())
}

/// Runs a validation, which signs and verifies, off the threads that answer requests.
pub(super) async fn judged<T: Send + 'static>(
    judge: impl FnOnce() -> Result<T, Vec<Fault>> + Send + 'static,
) -> Result<T, ControlError> {
    match tokio::task::spawn_blocking(judge).await {
        Ok(judged) => judged.map_err(ControlError::Invalid),
        Err(error) => {
            tracing::error!(%error, "validation ended early");
            Err(ControlError::Storing("egret failed or is ending; see the log".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn gives_way_and_says_when_it_failed() {
        assert_eq!(quietly(|| 7).await, Ok(7));
        let failed: Result<(), _> = quietly(|| panic!("on purpose")).await;
        assert!(failed.is_err());
        #[cfg(target_os = "linux")]
        {
            let own = || rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap_or(-1);
            assert_eq!(quietly(own).await, Ok(LOWEST));
            assert!(own() < LOWEST, "that thread alone");
        }
    }
}
