//! `wasm-bindgen` with what worker-build asks of it. The crate wasm-bindgen-cli also brings a runner of tests, with a server,
//! clients and decompressors: two thirds of what would be compiled.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use wasm_bindgen_cli_support::Bindgen;

fn main() -> ExitCode {
    match run(env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut args: impl Iterator<Item = OsString>) -> Result<()> {
    let mut bindgen = Bindgen::new();
    let (mut input, mut out_dir) = (None, None);
    // What wasm-bindgen's own program sets if it is not told otherwise.
    bindgen.typescript(true).omit_default_module_path(false);
    while let Some(arg) = args.next() {
        let mut value = || args.next().context("a value is missing");
        match arg.to_str().unwrap_or_default() {
            "--version" => {
                println!("wasm-bindgen {}", env!("CARGO_PKG_VERSION"));
                return Ok(());
            }
            "--out-dir" => out_dir = Some(PathBuf::from(value()?)),
            "--out-name" => {
                bindgen.out_name(&value()?.to_string_lossy());
            }
            "--target" => {
                match value()?.to_string_lossy().as_ref() {
                    "bundler" => bindgen.bundler(true)?,
                    "module" => bindgen.module(true)?,
                    other => bail!("the target {other} is not known here"),
                };
            }
            "--typescript" => {}
            "--no-typescript" => {
                bindgen.typescript(false);
            }
            "--debug" => {
                bindgen.debug(true);
            }
            "--no-demangle" => {
                bindgen.demangle(false);
            }
            "--keep-debug" => {
                bindgen.keep_debug(true);
            }
            "--omit-default-module-path" => {
                bindgen.omit_default_module_path(true);
            }
            "--split-linked-modules" => {
                bindgen.split_linked_modules(true);
            }
            "--experimental-reset-state-function" => {
                bindgen.reset_state_function(true);
            }
            option if option.starts_with('-') => bail!("the option {option} is not known here"),
            _ => input = Some(PathBuf::from(arg)),
        }
    }
    bindgen.input_path(input.context("the file is missing")?);
    bindgen.generate(out_dir.context("--out-dir is missing")?)
}
