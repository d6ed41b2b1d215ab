//! `signatures install`: a pack of signatures, from a file.

use std::path::PathBuf;

use agentquery::config::Config;
use agentquery::packs;
use clap::Args;

use super::Recording;

/// Install a pack of signatures, which a key of the configuration must have signed
#[derive(Debug, Args)]
pub(super) struct Install {
    /// The pack (tar.gz); its signature is the file of that name and .minisig
    #[arg(value_name = "PACK")]
    pack: PathBuf,
    /// Also when a newer version of it is installed
    #[arg(long)]
    force: bool,
}

/// Installs it where the recorder looks.
pub(super) fn run(recording: &Recording, what: &Install) -> anyhow::Result<()> {
    let config = Config::load(recording.config.as_deref())?;
    let keys = config.pack_keys.clone();
    let (_, place) = recording.settings(config, None);
    let root = place.state_dir.join(packs::DIRECTORY);
    let packs::Installed { name, version, files } = packs::install(&what.pack, &root, &keys, what.force)?;
    println!("installed {name} {version}, files: {files}; whoever records takes it in within seconds");
    Ok(())
}
