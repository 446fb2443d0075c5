//! The `gatepost` program: everything it does is in the library.

fn main() -> std::process::ExitCode {
    gatepost::cli::run()
}
