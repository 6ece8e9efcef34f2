//! A Parquet schema's leaves and their annotations: what the bytes of a column mean (STRING, JSON,
//! ENUM), beside how they are stored.

use std::sync::Arc;

use parquet::basic::{ConvertedType, LogicalType, Type as Physical};
use parquet::errors::ParquetError;
use parquet::schema::types::{Type, TypePtr};

/// `leaf` as it is stored, said to be bytes if it is said to be a string.
pub fn without_text(leaf: &TypePtr) -> Result<TypePtr, ParquetError> {
    match is_text(leaf) {
        true => annotated(leaf, ConvertedType::NONE, None).map(Arc::new),
        false => Ok(leaf.clone()),
    }
}

/// `leaf`, annotated as `own` is, if both are stored alike.
pub fn graft(leaf: &TypePtr, own: &Type) -> TypePtr {
    let info = own.get_basic_info();
    let unknown = matches!(info.logical_type_ref(), Some(LogicalType::_Unknown { .. }));
    if unknown || storage(leaf) != storage(own) {
        return leaf.clone();
    }
    let logical_type = info.logical_type_ref().cloned();
    match annotated(leaf, info.converted_type(), logical_type) {
        Ok(annotated) => Arc::new(annotated),
        Err(_) => leaf.clone(),
    }
}

/// How a leaf's values are stored: two leaves that agree in it differ in their annotations alone.
fn storage(leaf: &Type) -> Option<(Physical, i32, i32, i32)> {
    match leaf {
        Type::PrimitiveType { physical_type, type_length, precision, scale, .. } => {
            Some((*physical_type, *type_length, (*precision).max(0), (*scale).max(0)))
        }
        Type::GroupType { .. } => None,
    }
}

/// Whether Parquet's reader gives a leaf's values as strings, and makes sure that they are UTF-8.
fn is_text(leaf: &Type) -> bool {
    let info = leaf.get_basic_info();
    leaf.get_physical_type() == Physical::BYTE_ARRAY
        && (matches!(info.logical_type_ref(), Some(LogicalType::String | LogicalType::Json))
            || matches!(info.converted_type(), ConvertedType::UTF8 | ConvertedType::JSON))
}

/// A leaf with other annotations.
fn annotated(
    leaf: &Type,
    converted_type: ConvertedType,
    logical_type: Option<LogicalType>,
) -> Result<Type, ParquetError> {
    let Type::PrimitiveType { basic_info, physical_type, type_length, scale, precision } = leaf
    else {
        return Err(ParquetError::General(format!("{} is a group", leaf.name())));
    };
    Type::primitive_type_builder(leaf.name(), *physical_type)
        .with_repetition(basic_info.repetition())
        .with_converted_type(converted_type)
        .with_logical_type(logical_type)
        .with_length(*type_length)
        .with_scale(*scale)
        .with_precision(*precision)
        .with_id(basic_info.has_id().then(|| basic_info.id()))
        .build()
}

/// A Parquet schema with each of its leaves, from first to last, replaced.
pub fn map_leaves(
    node: &TypePtr,
    replace: &mut impl FnMut(&TypePtr) -> Result<TypePtr, ParquetError>,
) -> Result<TypePtr, ParquetError> {
    if node.is_primitive() {
        return replace(node);
    }
    let info = node.get_basic_info();
    let fields = node.get_fields().iter().map(|field| map_leaves(field, replace));
    // A FILE is a struct that says which annotations its leaves must have.
    let logical_type = info.logical_type_ref().filter(|kind| **kind != LogicalType::File);
    let mut builder = Type::group_type_builder(node.name())
        .with_converted_type(info.converted_type())
        .with_logical_type(logical_type.cloned())
        .with_id(info.has_id().then(|| info.id()))
        .with_fields(fields.collect::<Result<_, _>>()?);
    if info.has_repetition() {
        builder = builder.with_repetition(info.repetition());
    }
    builder.build().map(Arc::new)
}
