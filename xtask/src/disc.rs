//! Writes the disc that starts the hypervisor on real machines and on emulated ones: an ISO 9660 image with GRUB for
//! BIOS and for UEFI.
//!
//! `grub-mkrescue` does the work. What is on the disc is small enough to be looked at: the hypervisor, the boot
//! archive, GRUB's configuration ([`Menu`]), and the modules of GRUB that it takes to get that far.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::build::BootFiles;
use crate::project::{Project, output_of};
use crate::setup::Need;

/// What writing a disc needs.
pub(crate) const NEEDS: &[Need] = &[Need::Grub, Need::Xorriso, Need::Mtools];

/// GRUB's modules beside those that it starts with: our loader, the serial line, memory that can be cut, every kind of
/// partition table that its UEFI start looks for, and enough commands to find out what is wrong.
const MODULES: &str = "multiboot2 normal serial terminal iso9660 mmap part_acorn part_amiga part_apple part_bsd \
     part_dfly part_dvh part_gpt part_msdos part_plan part_sun part_sunpc configfile echo halt ls minicmd reboot test";

/// What GRUB shows and does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Menu<'a> {
    /// How long it waits for a key before it boots.
    pub(crate) seconds: u32,
    /// Commands that it follows first, one a line.
    pub(crate) script: &'a str,
    /// The hypervisor's command line.
    pub(crate) words: &'a [&'a str],
}

impl Menu<'_> {
    /// The same as GRUB reads it, for a boot archive of this name.
    ///
    /// # Errors
    ///
    /// If a word cannot be written so that GRUB passes it on as it is.
    fn configuration(&self, archive: &str) -> Result<String> {
        let mut line = String::new();
        for word in self.words {
            if word.contains(['\'', '\n']) {
                bail!("GRUB cannot pass the word `{word}` on");
            }
            write!(line, " '{word}'")?;
        }
        let Self { seconds, script, .. } = self;
        Ok(format!(
            "serial --unit=0 --speed=115200\n\
             terminal_input serial console\n\
             terminal_output serial console\n\
             set timeout={seconds}\n\
             {script}\n\
             menuentry 'Bulkhead' {{\n    \
                 multiboot2 /boot/bulkhead{line}\n    \
                 module2 '/boot/{archive}'\n\
             }}\n"
        ))
    }
}

/// Writes a disc with `files` to `iso`.
///
/// # Errors
///
/// If a tool is missing or fails, or files cannot be copied.
pub(crate) fn write(project: &Project, iso: &Path, files: &BootFiles, menu: &Menu<'_>) -> Result<()> {
    // What is on the disc, beside it: GRUB's tool takes a directory.
    let tree = iso.with_extension("disc");
    match fs::remove_dir_all(&tree) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", tree.display()));
        }
        _ => {}
    }
    let boot = tree.join("boot");
    fs::create_dir_all(boot.join("grub")).with_context(|| format!("cannot make {}", boot.display()))?;
    let archive = files
        .archive
        .file_name()
        .and_then(|name| name.to_str())
        .with_context(|| format!("{} has no name that GRUB could read", files.archive.display()))?;
    let copies = [
        (&files.stripped_hypervisor, "bulkhead"),
        (&files.archive, archive),
    ];
    for (from, name) in copies {
        fs::copy(from, boot.join(name)).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    fs::write(boot.join("grub/grub.cfg"), menu.configuration(archive)?)
        .with_context(|| format!("cannot write into {}", boot.display()))?;
    output_of(
        project
            .tool("grub-mkrescue")
            .arg(format!("--install-modules={MODULES}"))
            .args(["--locales=", "--fonts=", "--themes=", "--output"])
            .arg(iso)
            .arg(&tree),
    )?;
    // The disc has a copy of everything.
    fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grub_is_told_what_to_load_and_every_word_of_the_command_line() {
        let menu = Menu {
            seconds: 3,
            script: "cutmem 32M 48M",
            words: &["end=last", "loglevel=debug"],
        };
        let text = menu.configuration("hello.tar").unwrap();
        let expected = "set timeout=3\ncutmem 32M 48M\nmenuentry 'Bulkhead' {\n    \
                        multiboot2 /boot/bulkhead 'end=last' 'loglevel=debug'\n    \
                        module2 '/boot/hello.tar'\n}\n";
        assert!(text.ends_with(expected), "{text}");
        assert!(text.contains("terminal_output serial"));
    }

    #[test]
    fn a_word_that_grub_would_change_is_refused() {
        let menu = Menu {
            seconds: 0,
            script: "",
            words: &["it's"],
        };
        assert!(menu.configuration("a.tar").is_err());
    }
}
