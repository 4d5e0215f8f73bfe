//! What linking an addon asks for.

fn main() {
    napi_build::setup();
    // Velo's thread lives as long as the process, whichever of Node's threads loaded this and however that ended.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
