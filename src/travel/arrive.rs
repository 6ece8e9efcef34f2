//! Columns that travelled, as the types that they were declared with: for who takes Arrow's types
//! and not Parquet's bytes. Here text is looked at: what is no UTF-8 is a null there.

use arrow::array::{Array, ArrayRef, make_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, FieldRef};
use arrow::error::ArrowError;

/// `array` as `declared`: itself where it is that already. Text that is not UTF-8 becomes null.
///
/// # Errors
/// For more values than a dictionary's keys can tell apart.
pub fn arrived(array: &ArrayRef, declared: &DataType) -> Result<ArrayRef, ArrowError> {
    use DataType::*;
    if array.data_type() == declared {
        return Ok(array.clone());
    }
    match declared {
        // A view becomes text by way of its bytes.
        Binary => to(array, declared),
        Utf8 => text(&to(array, &Binary)?, declared),
        LargeBinary => to(array, declared),
        LargeUtf8 => text(&to(array, &LargeBinary)?, declared),
        Utf8View => to(&text(&to(array, &LargeBinary)?, &LargeUtf8)?, declared),
        Dictionary(_, values) => to(&arrived(array, values)?, declared),
        List(item)
        | LargeList(item)
        | ListView(item)
        | LargeListView(item)
        | FixedSizeList(item, _)
        | Map(item, _) => with_children(array, declared, std::slice::from_ref(item)),
        Struct(fields) => with_children(array, declared, fields),
        _ => to(array, declared),
    }
}

fn text(bytes: &ArrayRef, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
    // "Safe" makes a null of what does not fit.
    cast_with_options(bytes, data_type, &CastOptions { safe: true, ..CastOptions::default() })
}

fn to(array: &ArrayRef, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
    cast_with_options(array, data_type, &CastOptions { safe: false, ..CastOptions::default() })
}

fn with_children(
    array: &ArrayRef,
    declared: &DataType,
    fields: &[FieldRef],
) -> Result<ArrayRef, ArrowError> {
    let data = array.to_data();
    let children = data.child_data().iter().zip(fields).map(|(child, field)| {
        Ok(arrived(&make_array(child.clone()), field.data_type())?.to_data())
    });
    let children = children.collect::<Result<_, ArrowError>>()?;
    let builder = data.into_builder().data_type(declared.clone()).child_data(children);
    builder.build().map(make_array)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{DictionaryArray, ListArray, StringArray, StructArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{Field, Int8Type};

    use super::*;
    use crate::travel::travel_field;

    /// The same values as they travel.
    fn travelling(array: &ArrayRef) -> ArrayRef {
        let field = Arc::new(Field::new("x", array.data_type().clone(), true));
        let travelling = travel_field(&field);
        to(array, travelling.data_type()).expect("Arrow casts it")
    }

    #[test]
    fn what_travelled_arrives_as_it_was_sliced_and_nested_too() {
        let text: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("bcd"), None]));
        let words: DictionaryArray<Int8Type> = ["x", "y", "x", "x"].into_iter().collect();
        let words: ArrayRef = Arc::new(words);
        let item = Arc::new(Field::new("item", DataType::Utf8, true));
        let list =
            ListArray::new(item.clone(), OffsetBuffer::from_lengths([1, 3]), text.clone(), None);
        let list: ArrayRef = Arc::new(list);
        let nested: ArrayRef =
            Arc::new(StructArray::new(vec![item].into(), vec![text.clone()], None));
        for array in [&text, &words, &list, &nested] {
            let travelled = travelling(array);
            assert_ne!(travelled.data_type(), array.data_type());
            let slice = |array: &ArrayRef| array.slice(1, array.len() - 1);
            let arrived_slice = arrived(&slice(&travelled), array.data_type()).expect("it fits");
            assert_eq!(&arrived_slice, &slice(array));
            assert_eq!(&arrived(&travelled, array.data_type()).expect("it fits"), array);
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_null() {
        let bytes: ArrayRef =
            Arc::new(arrow::array::BinaryViewArray::from_iter_values([&b"ok"[..], &b"\xff"[..]]));
        for declared in [DataType::Utf8, DataType::LargeUtf8, DataType::Utf8View] {
            let text = arrived(&bytes, &declared).expect("it arrives");
            assert_eq!(text.data_type(), &declared);
            assert_eq!((text.is_valid(0), text.is_valid(1)), (true, false), "{declared}");
        }
        let kept = arrived(&bytes, &DataType::LargeBinary).expect("it arrives");
        assert_eq!(kept.null_count(), 0);
    }
}
