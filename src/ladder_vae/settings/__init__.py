"""What a setting is: schema, command line, composition."""
