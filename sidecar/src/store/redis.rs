//! .
use super::*;
/// .
#[derive(Debug)]
pub struct RedisStore;
/// .
#[derive(Debug)]
pub struct Inspection;
impl Inspection { /// .
pub fn danger(&self)->Option<String>{None} }
impl RedisStore { /// .
pub fn new(_: crate::settings::RedisSettings)->Result<Self,String>{Err(String::new())} /// .
pub async fn inspect(&self)->Result<Inspection,StoreError>{Ok(Inspection)} }
impl ClaimStore for RedisStore { fn apply(&self, _ops: Vec<Op>) -> Pin<Box<dyn Future<Output = Replies> + Send + '_>> { Box::pin(async{Vec::new()}) } }
