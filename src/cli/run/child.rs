//! The command itself: started as if egret were not there, outlived, its end passed on.
//!
//! It stays in egret's process group. What a terminal sends (ctrl-c, ctrl-\, hang-up) reaches it by itself, so egret
//! only outlives that; what someone sends to egret alone is handed on. A signal that was ignored when egret was started
//! (`nohup`) stays ignored in both.

use std::io::ErrorKind;
use std::process::{Command, ExitStatus};

/// What a process was started with and egret changes for itself: commands of the user's are started with the former.
/// `None`: unknown, or the same.
#[derive(Debug, Clone, Default)]
pub struct Inherited {
    /// The file mode creation mask.
    umask: Option<u32>,
    /// Soft limit of open files (`RLIMIT_NOFILE`); the inner `None` is none.
    descriptors: Option<Option<u64>>,
    /// Soft limit of core files (`RLIMIT_CORE`), in bytes.
    core: Option<Option<u64>>,
}

/// How a command ended: as a shell says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended(pub(super) u8);

impl Ended {
    /// There is no such command.
    const NOT_FOUND: Self = Self(127);
    /// It is there and cannot be executed.
    const NOT_EXECUTABLE: Self = Self(126);

    fn by(signal: i32) -> Self {
        Self(u8::try_from(128 + signal).unwrap_or(u8::MAX))
    }

    fn of(status: ExitStatus) -> Self {
        #[cfg(unix)]
        if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
            return Self::by(signal);
        }
        // Other platforms have codes above 255; none of them is a success here.
        Self(status.code().map_or(1, |code| u8::try_from(code).unwrap_or(u8::MAX)))
    }
}

/// Listens for what may be meant for the command. From its making on, such a signal does not end egret, which has
/// something to clean up.
pub(super) struct Watch(system::Signals);

impl Watch {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub(super) fn new() -> std::io::Result<Self> {
        system::Signals::new().map(Self)
    }

    /// Runs `command` to its end; not at all if a signal came before.
    ///
    /// # Errors
    /// When the child cannot be waited for. That it cannot be started is an exit code.
    pub(super) async fn run(&mut self, mut command: Command, inherited: &Inherited) -> anyhow::Result<Ended> {
        // The runtime hears of signals when it looks for events.
        tokio::task::yield_now().await;
        if let Some(number) = self.0.arrived() {
            return Ok(Ended::by(number));
        }
        let mut child = match inherited.spawn(&mut command) {
            Ok(child) => child,
            Err(error) => {
                let name = std::path::Path::new(command.get_program()).display().to_string();
                eprintln!("egret: {} cannot be run: {error}", crate::cli::output::clean(&name));
                let missing = error.kind() == ErrorKind::NotFound;
                return Ok(if missing { Ended::NOT_FOUND } else { Ended::NOT_EXECUTABLE });
            }
        };
        loop {
            // One task waits and signals: the pid cannot belong to someone else in between.
            if let Some(status) = child.try_wait()? {
                return Ok(Ended::of(status));
            }
            self.0.next(&child).await;
        }
    }

    /// Resolves at the next signal that asks for an end.
    pub(super) async fn end(&mut self) {
        self.0.any().await;
    }
}

#[cfg(not(unix))]
mod system {
    use std::process::{Child, Command};
    use std::time::Duration;

    use super::Inherited;

    impl Inherited {
        /// What this process has now.
        #[must_use]
        pub fn of_this_process() -> Self {
            Self::default()
        }

        pub(in crate::cli) fn spawn(&self, command: &mut Command) -> std::io::Result<Child> {
            command.spawn()
        }
    }

    pub(super) struct Signals;

    impl Signals {
        pub(super) fn new() -> std::io::Result<Self> {
            Ok(Self)
        }

        pub(super) fn arrived(&mut self) -> Option<i32> {
            None
        }

        pub(super) async fn any(&mut self) {
            let _ = tokio::signal::ctrl_c().await;
        }

        /// ctrl-c reaches the child by itself; its end is looked for.
        pub(super) async fn next(&mut self, _child: &Child) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
    }
}

#[cfg(unix)]
mod system {
    use std::fs::File;
    use std::future::poll_fn;
    use std::process::{Child, Command};
    use std::task::{Context, Poll, Waker};

    use rustix::fs::Mode;
    use rustix::process::{Pid, Resource, Rlimit, Signal, getpgrp, getrlimit, kill_process, setrlimit, umask};
    use rustix::termios::tcgetpgrp;
    use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

    use super::Inherited;

    /// What may be meant for the command, and whether a terminal sends it to the whole foreground by itself.
    const FORWARDED: [(Signal, bool); 6] = [
        (Signal::INT, true),
        (Signal::QUIT, true),
        (Signal::HUP, true),
        (Signal::TERM, false),
        (Signal::USR1, false),
        (Signal::USR2, false),
    ];

    impl Inherited {
        /// What this process has now.
        #[must_use]
        pub fn of_this_process() -> Self {
            // Reading the mask means setting it.
            let mask = umask(Mode::RWXG | Mode::RWXO);
            umask(mask);
            Self {
                umask: Some(mask.bits()),
                descriptors: Some(getrlimit(Resource::Nofile).current),
                core: Some(getrlimit(Resource::Core).current),
            }
        }

        /// Starts a command with them, and is as careful as before when it returns.
        pub(in crate::cli) fn spawn(&self, command: &mut Command) -> std::io::Result<Child> {
            let soft = |resource, limit: Option<Option<u64>>| {
                let before = getrlimit(resource);
                if let Some(current) = limit {
                    // A soft limit below the hard one is never refused.
                    let _ = setrlimit(resource, Rlimit { current, maximum: before.maximum });
                }
                before
            };
            let mask = self.umask.map(|mask| umask(Mode::from_bits_truncate(mask)));
            let (descriptors, core) = (soft(Resource::Nofile, self.descriptors), soft(Resource::Core, self.core));
            let child = command.spawn();
            let _ = setrlimit(Resource::Nofile, descriptors);
            let _ = setrlimit(Resource::Core, core);
            mask.map(umask);
            child
        }
    }

    pub(super) struct Signals {
        /// Of any child; there is one.
        ended: Stream,
        forwarded: Vec<(Signal, bool, Stream)>,
    }

    impl Signals {
        pub(super) fn new() -> std::io::Result<Self> {
            let ignored = ignored();
            let mut forwarded = Vec::new();
            for (which, by_terminal) in FORWARDED {
                let number = which.as_raw();
                // Listening would end the ignoring, here and in the child.
                if ignored & (1 << (number - 1)) == 0 {
                    forwarded.push((which, by_terminal, signal(SignalKind::from_raw(number))?));
                }
            }
            Ok(Self { ended: signal(SignalKind::child())?, forwarded })
        }

        /// The first signal that has arrived, by its number.
        pub(super) fn arrived(&mut self) -> Option<i32> {
            let mut context = Context::from_waker(Waker::noop());
            let mut came = self.forwarded.iter_mut().map(|(which, _, stream)| (*which, stream.poll_recv(&mut context)));
            came.find_map(|(which, poll)| poll.is_ready().then(|| which.as_raw()))
        }

        /// Resolves at the next signal.
        pub(super) async fn any(&mut self) {
            poll_fn(|context| {
                let polls = self.forwarded.iter_mut().map(|(_, _, stream)| stream.poll_recv(context).is_ready());
                // All are polled, or the others would not wake.
                if polls.fold(false, |any, ready| any | ready) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }

        /// Waits until a child may have ended; hands on to it what arrives meanwhile.
        pub(super) async fn next(&mut self, child: &Child) {
            let Self { ended, forwarded } = self;
            poll_fn(|context| {
                for (which, by_terminal, stream) in forwarded.iter_mut() {
                    while let Poll::Ready(Some(())) = stream.poll_recv(context) {
                        if !(*by_terminal && in_foreground())
                            && let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
                        {
                            let _ = kill_process(pid, *which);
                        }
                    }
                }
                ended.poll_recv(context).map(|_| ())
            })
            .await;
        }
    }

    /// Whether a terminal's own signals reach this process group.
    fn in_foreground() -> bool {
        File::open("/dev/tty").is_ok_and(|terminal| tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp()))
    }

    /// The signals that this process ignores, bit N-1 for signal N; none where Linux does not tell.
    fn ignored() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    async fn ended(watch: &mut Watch, command: &[&str]) -> Ended {
        let mut child = Command::new(command[0]);
        child.args(&command[1..]);
        watch.run(child, &Inherited::of_this_process()).await.unwrap()
    }

    /// One test: signals are everybody's in a process.
    #[tokio::test]
    async fn an_end_is_told_as_shells_tell_it() {
        let mut watch = Watch::new().unwrap();
        assert_eq!(ended(&mut watch, &["true"]).await, Ended(0));
        assert_eq!(ended(&mut watch, &["sh", "-c", "exit 7"]).await, Ended(7));
        assert_eq!(ended(&mut watch, &["sh", "-c", "kill -TERM $$"]).await, Ended(143));
        assert_eq!(ended(&mut watch, &["/nowhere/to/be/found"]).await, Ended::NOT_FOUND);
        assert_eq!(ended(&mut watch, &["/etc/passwd"]).await, Ended::NOT_EXECUTABLE);
        kill_process(getpid(), Signal::USR1).unwrap();
        let never = tempfile::tempdir().unwrap().path().join("made");
        assert_eq!(ended(&mut watch, &["mkdir", "-p", never.to_str().unwrap()]).await, Ended(128 + 10));
        assert!(!never.exists(), "a command that was to be ended is not begun");
    }
}
