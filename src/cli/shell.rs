//! `egret completions` and `egret man`: rendered from the same definitions as `--help`.

use std::path::Path;

use anyhow::Context as _;
use clap::{Command, CommandFactory as _};

use super::args::{Cli, CompletionsArgs, ManArgs};
use super::output::print;

pub(super) fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "egret", &mut script);
    print(&String::from_utf8(script).context("the completions are no text")?)
}

pub(super) fn man(args: &ManArgs) -> anyhow::Result<()> {
    let pages = pages()?;
    let Some(folder) = &args.dir else {
        return pages.first().map_or(Ok(()), |(_, page)| print(page));
    };
    std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    for (name, page) in &pages {
        write(folder, name, page)?;
    }
    print(&format!("{} pages written to {}\n", pages.len(), folder.display()))
}

/// Pages are for everybody to read, whatever the umask of a program that holds keys.
fn write(folder: &Path, name: &str, page: &str) -> anyhow::Result<()> {
    let path = folder.join(format!("{name}.1"));
    let written = std::fs::write(&path, page);
    #[cfg(unix)]
    let written =
        written.and_then(|()| std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)));
    written.with_context(|| format!("{} cannot be written", path.display()))
}

/// Every command with its page, the program itself first: `egret`, `egret-certs`, `egret-certs-upload`, …
fn pages() -> anyhow::Result<Vec<(String, String)>> {
    // `help` would repeat the others.
    let mut root = Cli::command().disable_help_subcommand(true);
    // Gives every command its whole name: egret-certs-upload, not upload.
    root.build();
    let (mut commands, mut pages) = (vec![&root], Vec::new());
    while let Some(command) = commands.pop() {
        let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
        pages.push((name, page(command).context("a manual page could not be rendered")?));
        commands.extend(command.get_subcommands().filter(|c| !c.is_hide_set()));
    }
    Ok(pages)
}

/// One page, with what stands below the options in `--help` line by line as it stands there.
fn page(command: &Command) -> anyhow::Result<String> {
    let notes = command.get_after_long_help().or_else(|| command.get_after_help()).map(ToString::to_string);
    let man = clap_mangen::Man::new(command.clone())
        .source(concat!("egret ", env!("CARGO_PKG_VERSION")))
        .manual("egret, an egress mTLS forward proxy");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut page = String::from_utf8(page)?;
    if let Some(notes) = notes {
        page.push_str(".SH \"EXAMPLES AND NOTES\"\n.nf\n");
        for line in notes.lines() {
            page.push_str(&escaped(line));
            page.push('\n');
        }
        page.push_str(".fi\n");
    }
    Ok(page)
}

/// Text for roff: no control lines, no escapes, and hyphens that can be copied into a shell.
fn escaped(line: &str) -> String {
    let text = line.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_of_its_own() {
        let pages = pages().unwrap();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names[0], "egret");
        for name in ["egret-serve", "egret-certs", "egret-certs-upload", "egret-store-rekey", "egret-completions"] {
            assert!(names.contains(&name), "{names:?}");
        }
        let (_, upload) = pages.iter().find(|(name, _)| name == "egret-certs-upload").unwrap();
        for piece in ["egret certs upload", "\\-\\-p12", "EGRET_PASSPHRASE", ".TH egret-certs-upload 1"] {
            assert!(upload.contains(piece), "{piece}: {upload}");
        }
    }

    #[test]
    fn nothing_of_a_note_is_taken_for_a_command_of_roff() {
        assert_eq!(escaped(".ssh --x"), "\\&.ssh \\-\\-x");
        assert_eq!(escaped("'a' \\n"), "\\&'a' \\en");
    }

    #[test]
    fn every_argument_says_what_it_is() {
        let mut commands = vec![Cli::command()];
        while let Some(command) = commands.pop() {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments().filter(|a| !matches!(a.get_id().as_str(), "help" | "version")) {
                assert!(argument.get_help().is_some(), "{} of {} has no help", argument.get_id(), command.get_name());
            }
            commands.extend(command.get_subcommands().cloned());
        }
    }
}
