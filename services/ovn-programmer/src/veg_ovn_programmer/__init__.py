"""ovn-programmer: owns every OVN Northbound row of VPC Egress Gateway."""
