//! Makes the prost types that the targets compare with.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../../proto/metalbond.proto");
    let descriptors = protox::compile(["../../proto/metalbond.proto"], ["../../proto"])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
