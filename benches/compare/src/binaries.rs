//! The programs that are run: where they are, or their build.
//!
//! Owns their paths and our server's command line. Must never run anything but cargo.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::ensure;

/// A folder with release builds of metalbond-uring and loadgen.
#[derive(Clone, Debug)]
pub struct Binaries(PathBuf);

impl Binaries {
    /// Those in a folder; without one they are built.
    ///
    /// # Errors
    /// If one is missing, or the build fails.
    pub fn at(folder: Option<&Path>) -> anyhow::Result<Binaries> {
        let binaries = Binaries(match folder {
            Some(folder) => folder.to_owned(),
            None => build()?,
        });
        for program in [binaries.loadgen(), binaries.reflector()] {
            ensure!(program.is_file(), "there is no {}", program.display());
        }
        Ok(binaries)
    }

    /// The load generator.
    pub fn loadgen(&self) -> PathBuf {
        self.0.join("loadgen")
    }

    /// A shell's command line that serves at `{address}` and `{port}`, with more flags. Peers may announce any number of routes: in
    /// all scenarios they come from few.
    pub fn server_command(&self, flags: &str) -> String {
        format!(
            "'{}' server --listen [{{address}}]:{{port}} --routes-per-peer-max 10000000 --updates-per-s-max 4294967295 {flags}",
            self.reflector().display()
        )
    }

    fn reflector(&self) -> PathBuf {
        self.0.join("metalbond-uring")
    }
}

/// The folder of the project.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Builds the release binaries and returns their folder.
fn build() -> anyhow::Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let status = cargo.args(["build", "--release", "--bins"]).current_dir(project()).status()?;
    ensure!(status.success(), "cargo build --release: {status}");
    Ok(project().join("target/release"))
}
