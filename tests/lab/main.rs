//! The command line of the laboratory: `lab warm`, `lab report RUN`.

use anyhow::{Context, Result, bail};

/// Makes the artefacts that nearly every test needs, before the programs under test are compiled.
fn warm() -> Result<()> {
    let root = lab::root::root()?;
    lab::prefix::archive()?;
    lab::emerge::modules(&root).map(drop)
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["warm"] => warm(),
        ["report", run] => {
            print!("{}", lab::times::report(run, 20)?);
            lab::compiled::bound()?;
            lab::times::trim().context("times.tsv")
        }
        _ => bail!("usage: lab warm | lab report RUN"),
    }
}
