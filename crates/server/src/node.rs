//! Stand-in until the node is merged.
#![allow(missing_docs)]

use std::path::PathBuf;
use std::sync::Arc;

use wire_protocol::Configuration;

use crate::address::BoundSocket;
use crate::connector::Connect;
use crate::options::{NodeOptions, OptionError};

#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct NodeError {
    code: i32,
    text: String,
}

impl NodeError {
    pub fn code(&self) -> i32 {
        self.code
    }
}

pub struct Node {
    options: NodeOptions,
    bound: Option<BoundSocket>,
}

impl Node {
    pub fn create(_id: u64, _address: String, data_dir: PathBuf) -> Result<Self, NodeError> {
        if !data_dir.exists() {
            let text = format!("raft_init(): io: directory '{}' does not exist", data_dir.display());
            return Err(NodeError { code: 1, text });
        }
        Ok(Self { options: NodeOptions::default(), bound: None })
    }
    pub fn options_mut(&mut self) -> Result<&mut NodeOptions, OptionError> {
        Ok(&mut self.options)
    }
    pub fn bind(&mut self, address: &str) -> Result<(), NodeError> {
        let bound =
            BoundSocket::bind(address).map_err(|error| NodeError { code: 1, text: error.to_string() })?;
        self.bound = Some(bound);
        Ok(())
    }
    pub fn bind_address(&self) -> Option<&str> {
        self.bound.as_ref().map(BoundSocket::address)
    }
    pub fn set_connect(&mut self, _connect: Arc<dyn Connect>) {}
    pub fn start(&mut self) -> Result<(), NodeError> {
        Err(NodeError { code: 1, text: "stub".to_owned() })
    }
    pub fn stop(&mut self) -> Result<(), NodeError> {
        Err(NodeError { code: 2, text: "stub".to_owned() })
    }
    pub fn is_running(&self) -> bool {
        false
    }
    pub fn recover(&mut self, _configuration: Configuration) -> Result<(), NodeError> {
        Err(NodeError { code: 1, text: "stub".to_owned() })
    }
    pub fn describe_last_entry(&self) -> Result<(u64, u64), NodeError> {
        Ok((0, 0))
    }
}
