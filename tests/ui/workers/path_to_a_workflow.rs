// The export of what is not the name of a type.

pub mod orders {}

ssetarget::export_workflow!(orders::Order);
