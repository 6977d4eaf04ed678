//! egret
#![forbid(unsafe_code)]
pub mod api;
pub mod app;
pub mod backend;
pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod domain;
pub mod identity;
pub mod net;
pub mod observe;
pub mod pki;
pub mod policy;
pub mod proxy;
pub mod registry;
pub mod upstream;
