//! Variables as commands of a shell.

use std::ffi::OsStr;

use crate::cli::args::Shell;

impl Shell {
    /// The one that `$SHELL` names; POSIX where it names none that is known.
    pub(super) fn of(path: Option<&OsStr>) -> Self {
        let name = path.and_then(|path| std::path::Path::new(path).file_name()).and_then(OsStr::to_str);
        match name {
            Some("fish") => Self::Fish,
            Some("pwsh" | "powershell" | "pwsh.exe" | "powershell.exe") => Self::Powershell,
            _ if cfg!(windows) => Self::Powershell,
            _ => Self::Sh,
        }
    }

    /// The command that sets `name`, for this shell and all that it starts. `value` stands between quotes within
    /// which nothing is expanded.
    pub(super) fn export(self, name: &str, value: &str) -> String {
        match self {
            Self::Sh => format!("export {name}='{}'\n", value.replace('\'', r"'\''")),
            Self::Fish => format!("set -gx {name} '{}'\n", value.replace('\\', r"\\").replace('\'', r"\'")),
            // PowerShell takes the typographic quotes for quotes as well.
            Self::Powershell => {
                let mut quoted = String::with_capacity(value.len());
                for c in value.chars() {
                    if matches!(c, '\'' | '\u{2018}' | '\u{2019}' | '\u{201a}' | '\u{201b}') {
                        quoted.push(c);
                    }
                    quoted.push(c);
                }
                format!("${{env:{name}}} = '{quoted}'\n")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_reads_back_what_was_meant() {
        let value = r#"a b'c"$d\e`f"#;
        assert_eq!(Shell::Sh.export("N", value), "export N='a b'\\''c\"$d\\e`f'\n");
        assert_eq!(Shell::Fish.export("N", value), "set -gx N 'a b\\'c\"$d\\\\e`f'\n");
        assert_eq!(Shell::Powershell.export("N", value), "${env:N} = 'a b''c\"$d\\e`f'\n");
        assert_eq!(Shell::Powershell.export("N", "\u{2019}"), "${env:N} = '\u{2019}\u{2019}'\n");
    }

    #[test]
    fn the_shell_is_known_by_its_file() {
        let of = |path: &str| Shell::of(Some(OsStr::new(path)));
        assert_eq!(of("/usr/bin/fish"), Shell::Fish);
        assert_eq!(of("/usr/bin/pwsh"), Shell::Powershell);
        if cfg!(unix) {
            assert_eq!(of("/bin/zsh"), Shell::Sh);
            assert_eq!(Shell::of(None), Shell::Sh);
        }
    }
}
