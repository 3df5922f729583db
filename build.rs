//! Makes the prost types from `proto/metalbond.proto`. Needs no installed protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/metalbond.proto");
    let descriptors = protox::compile(["proto/metalbond.proto"], ["proto"])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
