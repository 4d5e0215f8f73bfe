//! Velo's errors as JavaScript's: `Error`s with what the package makes its `VeloError` of.

use std::error::Error as _;

use napi::bindgen_prelude::{JsValue, Object, Unknown};
use napi::{Env, Status};
use velo_core::Error;

/// What is thrown, or a promise rejected with.
pub(crate) fn raised(env: Env, error: &Error) -> napi::Error {
    object(&env, error).map_or_else(|failed| failed, napi::Error::from)
}

fn object<'env>(env: &'env Env, error: &Error) -> napi::Result<Unknown<'env>> {
    let mut object = bare(env, error.to_string())?;
    object.set("kind", error.kind().as_str())?;
    if let Some(hint) = error.hint() {
        object.set("hint", hint)?;
    }
    let mut context = Object::new(env)?;
    for (key, value) in error.context() {
        context.set(key, value)?;
    }
    object.set("context", context)?;
    if let Some(source) = error.source() {
        object.set("cause", bare(env, source.to_string())?)?;
    }
    Ok(object.to_unknown())
}

fn bare(env: &Env, message: String) -> napi::Result<Object<'_>> {
    env.create_error(napi::Error::new(Status::GenericFailure, message))
}
