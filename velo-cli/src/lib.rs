//! The command `velo`.
