// A type that is no workflow.

pub struct Order;

ssetarget::export_workflow!(Order);
