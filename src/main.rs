//! The `egret` command: what belongs to the process and to no library (allocator, limits, file modes), then
//! [`egret::cli::run`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

use egret::cli::Inherited;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let inherited = Inherited::of_this_process();
    protect_secrets();
    raise_descriptor_limit();
    egret::cli::run(&inherited)
}

/// Keys live in this process: no core file and no debugger of the same user gets at its memory, and
/// nothing that it writes is readable by others unless it says so.
fn protect_secrets() {
    #[cfg(unix)]
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
        // Lowering one's own limits is never refused; where a sandbox does it all the same, egret works as well. The
        // hard limit stays: a command under `egret run` may want its core files.
        let maximum = getrlimit(Resource::Core).maximum;
        let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum });
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

/// Each request takes two descriptors, and the usual soft limit of 1,024 is meant for programs that use `select`.
fn raise_descriptor_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}
