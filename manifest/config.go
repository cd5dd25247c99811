package manifest

import (
	"fmt"
	"math"
)

// Equal says whether t and o are the same type.
func (t ConfigType) Equal(o ConfigType) bool {
	if t.Kind != o.Kind || t.MaxSize != o.MaxSize || t.MaxCount != o.MaxCount || (t.Element == nil) != (o.Element == nil) {
		return false
	}
	return t.Element == nil || t.Element.Equal(*o.Element)
}

// Check says whether v, a value as ConfigValue holds it, is of type t.
func (t ConfigType) Check(v any) error {
	ok := false
	switch x := v.(type) {
	case bool:
		ok = t.Kind == ConfigBool
	case uint64:
		ok = t.Kind >= ConfigUint8 && t.Kind <= ConfigUint64
		if ok && t.Kind < ConfigUint64 && x >= 1<<(8<<(t.Kind-ConfigUint8)) {
			return fmt.Errorf("%d is out of range for type %s", x, t.Kind)
		}
	case int64:
		ok = t.Kind >= ConfigInt8 && t.Kind <= ConfigInt64
		limit := int64(math.MaxInt64)
		if t.Kind < ConfigInt64 {
			limit = 1<<(8<<(t.Kind-ConfigInt8)-1) - 1
		}
		if ok && (x > limit || x < -limit-1) {
			return fmt.Errorf("%d is out of range for type %s", x, t.Kind)
		}
	case string:
		ok = t.Kind == ConfigString
		if ok && len(x) > int(t.MaxSize) {
			return fmt.Errorf("a string of %d bytes: max_size is %d", len(x), t.MaxSize)
		}
	case []any:
		ok = t.Kind == ConfigVector && t.Element != nil
		if !ok {
			break
		}
		if len(x) > int(t.MaxCount) {
			return fmt.Errorf("a vector of %d elements: max_count is %d", len(x), t.MaxCount)
		}
		for _, e := range x {
			if err := t.Element.Check(e); err != nil {
				return err
			}
		}
	}
	if !ok {
		return fmt.Errorf("%v is not a value of type %s", v, t.Kind)
	}
	return nil
}

// ParseRights reads one token of the language: a right, or an alias such as "rw*".
func ParseRights(token string) (Rights, bool) {
	switch token {
	case "r*":
		return RightsR, true
	case "w*":
		return RightsW, true
	case "x*":
		return RightsX, true
	case "rw*":
		return RightsRW, true
	case "rx*":
		return RightsRX, true
	}
	for i, n := range rightNames {
		if n == token {
			return 1 << i, true
		}
	}
	return 0, false
}
