//! Commands that mend what failed, for the project that it failed for.

use super::Inbound;
use crate::config::DEFAULT_PROJECT;
use crate::upstream::{Destination, Failure};

/// What lifts `tls13_only` where it stands.
pub(super) fn allowing_tls12(inbound: &Inbound, to: &Destination) -> Option<String> {
    let Destination::Tls(origin) = to else { return None };
    let snapshot = inbound.project.load();
    let binding = snapshot.select(origin).binding.filter(|b| b.tls13_only)?;
    Some(binding.allowing_tls12(&snapshot.info().name))
}

/// A command that uploads says for which project, unless that is the one that commands are for by themselves.
pub(in crate::proxy) fn name_project(failure: &mut Failure, project: &str) {
    const UPLOAD: &str = "egret certs upload";
    if project != DEFAULT_PROJECT
        && let Some(fix) = &mut failure.fix
        && let Some(at) = fix.find(UPLOAD)
    {
        fix.insert_str(at + UPLOAD.len(), &format!(" --project '{project}'"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Code;

    #[test]
    fn what_failed_for_a_project_is_mended_in_that_project() {
        let fixed = |project: &str, fix: &str| {
            let mut failure = Failure::new(Code::MtlsRequiredNoneRegistered, "none").fix(fix);
            name_project(&mut failure, project);
            failure.fix.expect("a remedy stays one")
        };
        let upload = "bind it: egret certs upload --origin https://a.test --cert FILE";
        assert_eq!(
            fixed("shop", upload),
            "bind it: egret certs upload --project 'shop' --origin https://a.test --cert FILE"
        );
        assert_eq!(fixed("default", upload), upload);
        assert_eq!(fixed("shop", "trust its CA"), "trust its CA");
    }
}
